"""The `pst` command: one file for each verb, heavy imports inside the handlers, so that `pst --help` is instant.

A verb's module has ``add_parser(verbs)``, which adds its parser and sets ``run``, and ``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pst import __version__
from pst.cli import bench, convert, demo, export, info, predict, reproduce, study, train, val, yolo

_USAGE_ERROR = 2
_INTERRUPTED = 130  # as shells report a command that Ctrl+C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes those of this process.

    Returns:
        Exit code: 0 for success, 2 for a wrong argument, file or missing package, 130 when interrupted.

    Raises:
        SystemExit: argparse printed help or refused the arguments.
    """
    own, passed_on = _split(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(own)
    args.passed_on = passed_on
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError) as error:
        if args.debug:
            raise
        print(f"pst: error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        print("pst: interrupted", file=sys.stderr)
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command; parsed arguments carry the verb's handler as ``run``."""
    parser = argparse.ArgumentParser(prog="pst", description="Pyramid Sparse Transformer for vision models.")
    parser.add_argument("--version", action="version", version=f"pst {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (demo, yolo, train, val, predict, bench, reproduce, study, export, convert, info):
        verb.add_parser(verbs)
    for each, default in [(parser, False), *((p, argparse.SUPPRESS) for p in verbs.choices.values())]:
        each.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of ours, and what argparse is not to see: all after a verb that hands it on, key=value anywhere."""
    verb = next((i for i, arg in enumerate(argv) if not arg.startswith("-")), len(argv))
    if argv[verb : verb + 1] == ["yolo"]:
        return list(argv[: verb + 1]), list(argv[verb + 1 :])
    if argv[verb : verb + 1] == ["train"]:
        settings = [arg for arg in argv[verb:] if "=" in arg and not arg.startswith("-")]
        return [arg for arg in argv if arg not in settings], settings
    return list(argv), []
