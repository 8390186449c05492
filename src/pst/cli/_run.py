"""Running one command: arguments in, exit code out, one sentence for what the user can change."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pst import __version__
from pst.cli._common import Verbs
from pst.cli._plain import plain_output, printable
from pst.io.files import first_line, write_failure

_USAGE_ERROR = 2
_BUG = 70  # EX_SOFTWARE of sysexits.h
_INTERRUPTED = 130  # as shells report a command that Ctrl+C ended
_CLOSED_PIPE = 141


def add_debug(parser: argparse.ArgumentParser, verbs: Verbs) -> None:
    """Let ``--debug`` stand before and behind the verb."""
    for each, default in [(parser, False), *((p, argparse.SUPPRESS) for p in verbs.choices.values())]:
        each.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def run(parser: argparse.ArgumentParser, argv: Sequence[str], passed_on: Sequence[str] = ()) -> int:
    """Parse ``argv``, call the verb's ``run`` and give its exit code, or that of its failure, see `pst.cli.main`.

    ``passed_on`` are arguments that the parser is not to see; the verb finds them as ``args.passed_on``.

    Raises:
        SystemExit: argparse printed help or refused the arguments.
    """
    with plain_output():
        args = parser.parse_args(argv)
        args.passed_on = list(passed_on)
        try:
            return args.run(args)
        except KeyboardInterrupt:
            print(f"pst: interrupted{getattr(args, 'again', '')}", file=sys.stderr)
            return _INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
            return _CLOSED_PIPE
        except Exception as error:
            if args.debug:
                raise
            return _report(error)


def _report(error: Exception) -> int:
    """Print one sentence about what the user can change, or the traceback of a bug."""
    if isinstance(error, (ValueError, OSError, ImportError, MemoryError)) or write_failure(error) is not None:
        print(f"pst: error: {printable(_sentence(error))}", file=sys.stderr)
        return _USAGE_ERROR
    if "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
        print(f"pst: error: out of memory: make imgsz or batch smaller ({first_line(error)})", file=sys.stderr)
        return _USAGE_ERROR
    traceback.print_exception(error)
    print(
        f"pst: this is a bug of pst {__version__}, not of your input: please report it{_where()} with the lines above",
        file=sys.stderr,
    )
    return _BUG


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None and error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return _no_permission(Path(name)) if isinstance(error, PermissionError) else f"{name}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: make imgsz or batch smaller ({first_line(error)})"
    return str(error).strip() or write_failure(error) or type(error).__name__


def _no_permission(path: Path) -> str:
    """What is not there was to be made; anything else was to be opened."""
    folder = path.absolute().parent
    if folder.is_dir() and os.access(folder, os.X_OK) and not os.path.lexists(path):
        return f"{path} cannot be written: no permission for {folder}; choose another folder"
    return f"{path} cannot be read: no permission; let your user read it, e.g. with chmod u+r, or give a copy"


def _where() -> str:
    """` at URL`, of the issue tracker in the package's metadata."""
    try:
        urls = metadata.metadata("pyramid-sparse-transformer").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    issues = [url.partition(", ")[2] for url in urls if url.lower().startswith(("issues,", "bug", "tracker"))]
    return f" at {issues[0]}" if issues else ""
