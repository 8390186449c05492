"""``python -m lab bench|study|two-maps|frozen …``, from the root of a checkout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lab.bench import command as bench
from lab.frozen import command as frozen
from lab.study import command as study
from lab.two_maps import command as two_maps
from pst.cli._run import add_debug, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; arguments and exit codes are those of `pst.cli.main`."""
    return run(build_parser(), sys.argv[1:] if argv is None else argv)


def build_parser() -> argparse.ArgumentParser:
    """Parser of the verbs; parsed arguments carry the verb's handler as ``run``."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="Measurements behind the figures of pst.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (bench, study, two_maps, frozen):
        verb.add_parser(verbs)
    add_debug(parser, verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
