"""Atomic files: a path holds the old file or the whole new one, whatever interrupts the writing."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PART = re.compile(r"^\..*\.(?P<writer>[0-9a-f]{8})\.[0-9a-f]+\.(?P<pid>\d+)\.part$")
_OTHERS = re.compile(r"^\..+\.\d+\.part$")  # of a machine that cannot be asked, or an earlier version
_OLD = 24 * 3600  # seconds after which no writer is at work on a part any more
_NUMBERS = itertools.count()
_MINE: set[str] = set()
_WAITS: dict[Path, int] = {}  # folder -> writes until it is looked through again
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])}
_LIBRARIES = {"SafetensorError": "", "RuntimeError": r"PytorchStreamWriter|inline_container|iostream|file write failed"}


class WriteError(OSError):
    """A file could not be written; the message is a sentence that names it and says why."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write, whose file or folder takes the place of ``path`` once the with block succeeds.

    It has the name of ``path`` and lies in a hidden folder ``.NAME.….PID.part`` beside it, made for this purpose, so
    temporary files of libraries are caught as well. The folder of ``path`` is made if it is missing. An exception
    inside the block leaves ``path`` as it was and removes what was written. What a killed process left is removed by
    the next writer to the same folder; what another machine's left, after a day.

    Args:
        path: The file to write.

    Raises:
        WriteError: It cannot be written, e.g. because the disk is full.
        OSError: The folder cannot be made or written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    part = path.with_name(f".{_shortened(path.name)}.{_writer()}.{next(_NUMBERS):x}.{os.getpid()}.part")
    _MINE.add(part.name)
    try:
        part.mkdir()
        yield part / path.name
        (part / path.name).replace(path)
    except Exception as error:
        reason = write_failure(error)
        if reason is None and isinstance(error, OSError) and str(error.filename).startswith(str(part)):
            reason = error.strerror
        if reason is None:
            raise
        raise WriteError(f"cannot write {path}: {reason}; what was there before is untouched") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _MINE.discard(part.name)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a binary file atomically."""
    with replacing(path) as part:
        part.write_bytes(content)


def read_json(path: str | Path) -> Any:
    """What a JSON file of ours holds, a mapping.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no JSON ({error}): delete it and make it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected a mapping: is it a result of pst?")  # noqa: TRY004
    return content


def write_failure(error: BaseException) -> str | None:
    """Why writing failed, in words; None for an exception of another kind.

    Full disks, quotas and limits reach us as the OSError of Python, and as exceptions of safetensors' and PyTorch's
    own for what those write themselves.
    """
    if isinstance(error, OSError):
        return error.strerror if error.errno in _FULL else None
    pattern = _LIBRARIES.get(type(error).__name__)
    if pattern is None or not re.search(pattern, str(error)):
        return None
    known = re.search(r'message: "([^"]+)"', str(error))  # of Rust
    return known[1] if known else "the disk is full, or a quota or limit is reached"


def check_ours(path: str | Path, mark: str) -> None:
    """Refuse to replace a file that has no ``mark`` in its first 64 kB, where the library writes one.

    Raises:
        FileExistsError: There is another file, or a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder, and a file of this name is to be written: choose another folder")
    if not path.is_file():
        return
    with path.open("rb") as file:
        if mark.encode() not in file.read(2**16):
            raise FileExistsError(f"{path} is not of an earlier run, and would be replaced: choose another folder")


def check_file(path: str | Path, what: str, remedy: str | None = None) -> Path:
    """``path`` as a Path; FileNotFoundError unless it is a file.

    Args:
        path: What was given.
        what: What it should be, in a few words without an article.
        remedy: What to do, to end the message with.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"no {what} at {path}, which is a folder: {remedy or 'give a file in it'}")
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}: {remedy or 'check the path'}")
    return path


def check_folder(folder: str | Path) -> None:
    """Refuse a folder to write to that cannot be made or written to, before any work; nothing is made.

    Raises:
        NotADirectoryError: It is a file, or lies below one.
        PermissionError: It may not be written to.
    """
    path = Path(folder).absolute()
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not there.is_dir():
        what = "a file" if there.exists() else "a link that leads nowhere"
        raise NotADirectoryError(f"{folder} cannot be a folder: {there} is {what}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written: no permission for {there}")


def check_parent(path: str | Path) -> Path:
    """``path`` as a Path; FileNotFoundError unless the folder that it is to lie in exists."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent}: make it first")
    return path


def check_space(folder: str | Path, needed: int) -> None:
    """Refuse to start work whose files, of ``needed`` bytes, do not fit on the disk of ``folder``; it need not exist.

    Raises:
        WriteError: Less than that is free.
    """
    there = next(p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise WriteError(f"{folder} needs {needed / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free")


def _remove_stale(folder: Path) -> None:
    """Remove the parts of dead processes; in a folder of many files not at every write, which would take as long."""
    _WAITS[folder] = _WAITS.get(folder, 0) - 1
    if _WAITS[folder] >= 0:
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    _WAITS[folder] = len(names) // 100
    for name in names:
        if name.endswith(".part") and _is_stale(folder / name):
            _remove(folder / name)


def _is_stale(part: Path) -> bool:
    match = _PART.match(part.name)
    if match is not None and match["writer"] == _writer() and os.name == "posix":
        return part.name not in _MINE if int(match["pid"]) == os.getpid() else not _is_alive(int(match["pid"]))
    if _OTHERS.match(part.name) is None:
        return False
    try:
        return time.time() - part.stat().st_mtime > _OLD
    except OSError:
        return False  # its writer, or another process that looks, was faster


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; no pid
        return True
    return True


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


@functools.cache
def _writer() -> str:
    """Eight digits for all processes that see each other's pids: of this machine since it started, or one container."""
    facts = [
        platform.node(),
        _text("/proc/sys/kernel/random/boot_id", Path.read_text),
        _text("/proc/self/ns/pid", os.readlink),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _text(path: str, read: Callable[[Path], str]) -> str:
    try:
        return read(Path(path))
    except OSError:  # not Linux
        return ""


def _shortened(name: str) -> str:
    """The beginning of a name: with what follows it must fit into the 255 bytes of one."""
    return name.encode("utf-8", "surrogateescape")[:150].decode("utf-8", "ignore")


def first_line(error: object) -> str:
    """What an exception of another library says, to be a part of one sentence: its first line, 300 letters at most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def explained(
    what: str, *, passing: tuple[type[Exception], ...] = (ImportError, OSError, ValueError)
) -> Iterator[None]:
    """Make one sentence of whatever another library raises inside the with block: ``what``, and what it says.

    Raises:
        ValueError: In place of every exception but those of ``passing``.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        kind = "" if type(error) is ValueError or not str(error) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{first_line(error)}") from error
