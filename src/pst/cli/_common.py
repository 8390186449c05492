"""What several verbs share: argument types, the check for an extra, tables."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn, TypeAlias

from pst.io.files import WriteError, write_failure
from pst.io.names import nearest
from pst.io.versions import install_extra, is_installed

Verbs: TypeAlias = "argparse._SubParsersAction[Any]"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Begins the help of every verb on the verb's line: argparse measures their names without the indent."""

    def add_argument(self, action: argparse.Action) -> None:
        """As in argparse, with room for the names of the verbs below an action."""
        super().add_argument(action)
        for verb in self._iter_indented_subactions(action):
            self._action_max_length = max(self._action_max_length, len(str(verb.metavar)) + self._current_indent)


class VerbParser(argparse.ArgumentParser):
    """Of the command or a verb: a mistake is one sentence, with what was meant, instead of the whole usage."""

    _given: Sequence[str] = ()  # what is being parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As in argparse, but what no verb knows is refused here, where the verb's options are known."""
        self._given = sys.argv[1:] if args is None else list(args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._no(unknown[0]))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the options are listed."""
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += nearest(choice[1], re.findall(r"[\w-]+", choice[2]), 0.6)
        if " are required: " in message and (unknown := self._unknown_option()) is not None:
            message = self._no(unknown)  # what is missing may be what was misspelt
        self.exit(2, f"pst: error: {message} ({self.prog} --help lists what it takes)\n")

    def _unknown_option(self) -> str | None:
        """The first ``--option`` among the arguments that this parser does not have."""
        options = [arg for arg in itertools.takewhile(lambda arg: arg != "--", self._given) if arg.startswith("--")]
        known = self._options()
        return next((arg for arg in options if not any(o.startswith(arg.partition("=")[0]) for o in known)), None)

    def _options(self) -> list[str]:
        return re.findall(r"--[\w-]+", self.format_help())

    def _no(self, unknown: str) -> str:
        if "KEY=VALUE" in (self.usage or "") and os.path.lexists(unknown):
            return f"settings are written KEY=VALUE: a data set is given as data={unknown}"
        return f"there is no {unknown} here{self._meant(unknown)}"

    def _meant(self, unknown: str) -> str:
        name = unknown.partition("=")[0]
        if "KEY=VALUE" in (self.usage or "") and name.startswith("--"):
            without = f": settings are written without --, {name.removeprefix('--')}=…"
            return nearest(name, self._options(), 0.75) or without  # no setting is so like a flag that is another thing
        if "KEY=VALUE" in (self.usage or ""):
            return ": settings are KEY=VALUE, without spaces around the ="
        return nearest(name, self._options(), 0.6) if name.startswith("-") else ""


def add_verb(verbs: Verbs, name: str, description: str, examples: Sequence[str], **options: Any) -> Any:
    """Add the parser of a verb, whose help ends with examples.

    Args:
        verbs: What to add it to.
        name: Of the verb.
        description: What it does, in sentences.
        examples: Commands, without the program's name.
        options: Of `argparse.ArgumentParser`, and ``help``.
    """
    lines = [f"  pst {example}" for example in examples]
    return verbs.add_parser(
        name,
        description=textwrap.fill(description, max(shutil.get_terminal_size().columns - 2, 40)),
        epilog="\n".join(["examples:" if len(lines) > 1 else "example:", *lines]),
        formatter_class=HelpFormatter,
        **options,
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``, the same for every verb that opens checkpoints of Ultralytics."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run whatever code the model file, the data set's YAML or its cache hold: only for files you trust",
    )


def positive(text: str) -> int:
    """Argument type: an integer ≥ 1."""
    return _integer(text, 1)


def share(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def natural(text: str) -> int:
    """Argument type: an integer ≥ 0."""
    return _integer(text, 0)


def topk_list(text: str) -> list[int]:
    """Argument type: integers ≥ 0 with commas between them, e.g. ``0,4,8``."""
    if not all(item.isdecimal() for item in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected integers ≥ 0 with commas between them, e.g. 0,4,8, got {text!r}")
    return [int(item) for item in text.split(",")]


def bound_list(text: str) -> list[int | None]:
    """Argument type: integers ≥ 1, or ``all`` for no bound, with commas between them, e.g. ``16,100,all``."""
    return [None if item == "all" else _integer(item, 1) for item in text.split(",")]


def fusion_list(text: str) -> list[str]:
    """Argument type: names of fusions with commas between them, e.g. ``gate,refine``."""
    names = text.split(",")
    unknown = [name for name in names if name not in ("gate", "refine")]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected gate, refine or gate,refine, got {text!r}")
    return names


def _integer(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected an integer ≥ {least}, got {text!r}")
    return int(text)


def show_log() -> None:
    """Print what the package logs about its progress, on standard errors."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pst").setLevel(logging.INFO)


def require(module: str, extra: str) -> None:
    """Raise ImportError with the command that installs it unless ``module`` can be imported."""
    if not is_installed(module):
        raise ImportError(f"{module} is not installed: {install_extra(extra)}")


def check_suffix(path: Path) -> None:
    """Raise ValueError for what cannot be a checkpoint of Ultralytics by its name, FileNotFoundError for nothing."""
    if not path.suffix and not path.exists():
        raise FileNotFoundError(f"there is no {path}: give a .pt or .safetensors file, or a run folder of pst train")
    from pst.io.checkpoints import check_no_folder

    check_no_folder(path)
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(
            f"{path} is not a checkpoint: expected a .pt or .safetensors file; exported files run with "
            f"pst yolo val model=… and pst yolo predict model=…"
        )


def check_run(path: Path) -> None:
    """Raise ValueError for a folder that is not a run of `pst train`."""
    if path.is_dir() and not (path / "best.safetensors").is_file():
        from pst.io.checkpoints import best_of

        best = best_of(path)
        if best is None and (path / "config.yaml").is_file():
            last = path / "last.safetensors"
            other = f", or give {last}" if last.is_file() else ""
            raise ValueError(
                f"{path} is a run that was not validated yet, and has no best.safetensors: go on with it, pst train … "
                f"--resume{other}"
            )
        wanted = "give a run folder, or a .safetensors file from one" if best is None else f"give {best}"
        raise ValueError(f"{path} is not a run folder of pst train, since it has no best.safetensors: {wanted}")


def free_folder(parent: Path, model: Path) -> Path:
    """A folder below ``parent`` that is not there yet, so that no earlier result is replaced, named after a model.

    ``best`` and ``last`` are what trainings call theirs: the name of the training's folder stands before them.
    """
    folder = model.absolute().parent
    run = (folder.parent if folder.name == "weights" else folder).name  # Ultralytics keeps them in RUN/weights
    name = f"{run}-{model.stem}" if model.stem in ("best", "last") and run else model.stem
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(parent / each for each in names if not (parent / each).exists())


class HostError(ValueError):
    """What Ultralytics says of its inputs."""


@contextmanager
def host_errors(doing: str) -> Iterator[None]:
    """Turn what Ultralytics raises about its inputs, of whatever type, into a HostError of one sentence.

    An exception that our own code raises, below Ultralytics or above it, passes, and a PermissionError, which names
    its file. ``doing`` says what was tried, with the file's name: "validate best.pt on data.yaml".
    """
    try:
        yield
    except Exception as error:
        if (
            not _raised_by_host(error)
            or isinstance(error, (ImportError, WriteError, PermissionError))
            or write_failure(error)
        ):
            raise
        said = " ".join(str(error).split())
        raise HostError(f"Ultralytics cannot {doing}: {type(error).__name__}: {said}") from error


@contextmanager
def in_flags(names: Sequence[str]) -> Iterator[None]:
    """Write the arguments of a Python function that one of our errors names as the command's flags: topk=0, half.

    "a dynamic file" names none, nor do "data" and "out" without a = behind them, nor the parts of a path.
    """
    word = rf"(?<!a )(?<![\w./\\-])({'|'.join(names)})(=)?(?(2)|(?![\w./\\-]))"

    def flag(match: re.Match[str]) -> str:
        if match[1] in ("data", "out") and not match[2]:
            return match[0]
        return f"--{match[1].replace('_', '-')}{' ' if match[2] else ''}"

    try:
        yield
    except HostError:
        raise
    except ValueError as error:
        raise ValueError(re.sub(word, flag, str(error))) from error


def _raised_by_host(error: Exception) -> bool:
    """Whether the innermost code of Ultralytics and us that was running is Ultralytics'."""
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    return next((name == "ultralytics" for name in reversed(packages) if name in ("pst", "ultralytics")), False)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Text table, the ``left`` first columns to the left and the others to the right, two spaces between columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]

    def line(row: Sequence[str]) -> str:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in (header, rule, *rows))
