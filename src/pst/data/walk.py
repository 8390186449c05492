"""Folders of a data set: every image in them once, whatever the links, and nothing that a system left there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pst.io.image_file import EXTENSIONS
from pst.io.names import counted

_LOG = logging.getLogger(__name__)
_LEFT_BY_SYSTEMS = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})
_UNREAD = frozenset({".dng", ".heic", ".heif", ".jfif", ".psd", ".svg"})  # pictures, but not for us


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: ``.ipynb_checkpoints``, ``._a.png``, ``Thumbs.db``, ..."""
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, links to folders among them, in order of name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def list_images(folder: Path, *, recursive: bool = True) -> list[Path]:
    """The images in a folder, by their endings, in order of name; pictures that can't be read are counted in the log.

    Links are followed. A file or folder that is reached twice counts where it lies, or under the first link to it; a
    link to a folder that holds ``folder`` leads nowhere.

    Args:
        folder: To look into.
        recursive: Look into the folders in it as well.

    Raises:
        FileNotFoundError: An image is a link to a file that does not exist.
    """
    found, unread = [], []
    seen: set[str] = set()
    for path, real in _walk(folder, recursive=recursive):
        ending = path.suffix.lower()
        if ending in _UNREAD:
            unread.append(path)
        if ending not in EXTENSIONS or real in seen:
            continue
        seen.add(real)
        if path.is_file():  # no pipe, no device
            found.append(path)
        elif not path.exists():
            raise FileNotFoundError(f"{path} is a link to {path.readlink()}, which does not exist")
    if unread:
        those = counted(len(unread), "picture")
        _LOG.warning(
            "left out %s of a format that is not taken, the first is %s: save them as JPEG or PNG", those, unread[0]
        )
    return sorted(found)


def unique(files: Iterable[Path], where: str) -> list[Path]:
    """Files in their order, each once; how many came again is logged."""
    kept: dict[str, Path] = {}
    again = 0
    for file in files:
        again += kept.setdefault(os.path.abspath(file), file) is not file  # noqa: PTH100 fast: links are not resolved
    if again:
        _LOG.warning("%s names %s again: each counts once", where, counted(again, "image"))
    return list(kept.values())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link that leads back to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(folder: Path, *, recursive: bool) -> Iterator[tuple[Path, str]]:
    """Every file, and where it really lies; what lies in the folder itself comes before what links lead to."""
    top = os.path.realpath(folder)
    done: set[str] = set()
    queue, links, linked_files = [folder], [], []
    while queue or links:
        here = queue.pop() if queue else links.pop(0)
        real = os.path.realpath(here)
        if real in done or (here != folder and os.path.commonpath([real, top]) == real):
            continue
        done.add(real)
        with os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = here / entry.name
                if is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    if recursive:
                        (links if entry.is_symlink() else queue).append(path)
                elif entry.is_symlink():
                    linked_files.append(path)
                else:
                    yield path, os.path.join(real, entry.name)  # noqa: PTH118 text, for speed
    yield from ((path, os.path.realpath(path)) for path in linked_files)
