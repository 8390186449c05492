"""The `pst` command: one file for each verb, heavy imports inside the handlers, so that `pst --help` is instant.

A verb's module has ``add_parser(verbs)``, which adds its parser and sets ``run``, and ``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from pst import __version__
from pst.cli import convert, demo, export, info, predict, reproduce, train, val, yolo
from lab.bench import command as bench
from lab.study import command as study
from pst.cli._plain import plain, plain_output
from pst.io.files import write_failure

_USAGE_ERROR = 2
_BUG = 70  # EX_SOFTWARE of sysexits.h
_INTERRUPTED = 130  # as shells report a command that Ctrl+C ended
_CLOSED_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes those of this process.

    Returns:
        Exit code: 0 for success, 2 for a wrong argument, file or missing package, 70 for a bug of this library, which
        is shown with its traceback, 130 when interrupted.

    Raises:
        SystemExit: argparse printed help or refused the arguments.
    """
    with plain_output():
        own, passed_on = _split(sys.argv[1:] if argv is None else argv)
        args = build_parser().parse_args(own)
        args.passed_on = passed_on
        try:
            return args.run(args)
        except KeyboardInterrupt:
            print("pst: interrupted", file=sys.stderr)
            return _INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
            return _CLOSED_PIPE
        except Exception as error:
            if args.debug:
                raise
            return _report(error)


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


def _report(error: Exception) -> int:
    """Print one sentence about what the user can change, or the traceback of a bug."""
    if isinstance(error, (ValueError, OSError, ImportError, MemoryError)) or write_failure(error) is not None:
        print(f"pst: error: {_printable(_sentence(error))}", file=sys.stderr)
        return _USAGE_ERROR
    if "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
        print(f"pst: error: out of memory: make imgsz or batch smaller ({_first_line(error)})", file=sys.stderr)
        return _USAGE_ERROR
    traceback.print_exception(error)
    print(
        f"pst: this is a bug of pst {__version__}, not of your input: please report it{_where()} with the lines above",
        file=sys.stderr,
    )
    return _BUG


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None and error.filename is not None:
        return (
            f"{os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename}: {error.strerror}"
        )
    if isinstance(error, MemoryError):
        return f"out of memory: make imgsz or batch smaller ({_first_line(error)})"
    return str(error).strip() or write_failure(error) or type(error).__name__


def _printable(text: str) -> str:
    """Text without control characters, which names of files and classes may hold."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in plain(text))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _where() -> str:
    """` at URL`, of the issue tracker in the package's metadata."""
    try:
        urls = metadata.metadata("pyramid-sparse-transformer").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    issues = [url.partition(", ")[2] for url in urls if url.lower().startswith(("issues,", "bug", "tracker"))]
    return f" at {issues[0]}" if issues else ""


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
