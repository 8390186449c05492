"""The `pst` command: one file for each verb, heavy imports inside the handlers, so that `pst --help` is instant.

A verb's module has ``add_parser(verbs)``, which adds its parser and sets ``run``, and ``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pst import __version__
from pst._moved import GONE
from pst.cli import convert, demo, doctor, explore, export, info, predict, propagate, reproduce, train, val, yolo
from pst.cli._common import HelpFormatter, VerbParser
from pst.cli._run import add_debug, run
from pst.cli._waiting import wait_briefly


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes those of this process, whose environment then also gets
            the `pst.cli._waiting.DEFAULTS` that it lacks.

    Returns:
        Exit code: 0 for success, 1 if some of many clips failed, 2 for a wrong argument, file or missing package, 70
        for a bug of this library, which is shown with its traceback, 130 when interrupted.

    Raises:
        SystemExit: argparse printed help or refused the arguments.
    """
    if argv is None:
        wait_briefly(os.environ)
    own, passed_on = _split(sys.argv[1:] if argv is None else argv)
    if own and f"pst.{own[0]}" in GONE:
        print(f"pst: error: pst {own[0]} left the package: use {GONE[f'pst.{own[0]}']}", file=sys.stderr)
        return 2
    return run(build_parser(), own, passed_on)


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command; parsed arguments carry the verb's handler as ``run``."""
    parser = VerbParser(
        prog="pst",
        description="Pyramid Sparse Transformer for vision models.",
        epilog="In the help of a verb, parentheses hold what an option is where it is left out.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pst {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (demo, explore, yolo, train, val, predict, propagate, reproduce, export, convert, info, doctor):
        verb.add_parser(verbs)
    add_debug(parser, verbs)
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of ours, and what argparse is not to see: all after a verb that hands it on, key=value of training."""
    verb = next((i for i, arg in enumerate(argv) if not arg.startswith("-")), len(argv))
    if argv[verb : verb + 1] == ["yolo"]:
        return list(argv[: verb + 1]), list(argv[verb + 1 :])
    if argv[verb : verb + 1] != ["train"]:
        return list(argv), []
    own, settings = list(argv[: verb + 1]), []
    for before, arg in zip(argv[verb:], argv[verb + 1 :], strict=False):
        is_setting = "=" in arg and not arg.startswith("-") and before != "--config"
        (settings if is_setting else own).append(arg)
    return own, settings
