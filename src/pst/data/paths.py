"""Where the paths of a data file lead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pst.data.text import shown

_ABSENT = ("", "~", "null", "Null", "NULL")  # how YAML writes that there is nothing


def entry_of(spec: Mapping[Any, Any], key: str) -> Any:
    """A value of a data file read as text; None where the file has none, or an empty one."""
    value = spec.get(key)
    return None if value in _ABSENT else value


def root_of(spec: Mapping[Any, Any], path: Path) -> Path:
    """The folder that the paths of a data file start from: its own, or the one under its ``path:``.

    Raises:
        FileNotFoundError: There is no such folder, neither beside the file nor in the working directory.
        ValueError: ``path:`` is not text.
    """
    value = entry_of(spec, "path")
    if value is None:
        return path.parent
    if not isinstance(value, str):
        raise ValueError(f"{path} has the path {shown(value)}: expected one folder")  # noqa: TRY004 the file is wrong
    for root in (path.parent / value, Path(value)):
        if is_there(root):
            return root
    raise FileNotFoundError(f"{path} has the path {value}, which does not exist: correct it, or delete the line")


def resolved(text: str, *bases: Path) -> Path:
    """The first place below ``bases`` where a path of a file exists, else the plain one.

    Besides what is written that is the path without a leading ``../``, as Roboflow needs it, and the one with the
    separators of Windows.
    """
    texts = [text, text.removeprefix("../")]
    texts += [each.replace("\\", "/") for each in texts if "\\" in each]
    texts += [texts[-1].removeprefix("../")]
    places = [base / each for each in dict.fromkeys(texts) for base in bases]
    return next((place for place in places if is_there(place)), places[0])


def named(place: Path, longest: int = 300) -> str:
    """A path as it stands in a message."""
    text = str(place)
    return text if len(text) <= longest and text.isprintable() else shown(text, longest)


def absent(place: Path, wanted: str) -> str:
    """Of a data set that is not there: what was given, and what it should be."""
    return f"there is nothing at {named(place)}: give {wanted}"


def other_task(root: Path, task: str) -> str:
    """Which other task a folder seems to be for that ``task`` can't read, to end its message with; may be empty."""
    for sign, other in (("data.yaml", "detect"), ("classes.txt", "segment")):
        if is_file(root / sign):
            return f"; it has a {sign}, as data sets for {other} have"
    train = root / "train"
    folders = {each.name for each in train.iterdir() if each.is_dir()} if train.is_dir() else set()
    if task != "classify" and folders - {"images", "labels", "masks"}:
        return "; it has folders in train, as data sets for classify have"
    return ""


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; text that can't be a path leads nowhere."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long; holds a null character
        return False


def is_file(path: Path) -> bool:
    """Likewise for a regular file."""
    return is_there(path) and path.is_file()
