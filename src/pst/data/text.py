"""Text that people write: UTF-8 files, with or without a byte order mark; values and names of classes in them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path

from pst.io.files import check_file

_MARKS = {  # the longer ones first: that of UTF-16 is the beginning of that of UTF-32
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: str | Path, *, most: int | None = None) -> str:
    """The text of a file, without its byte order mark, lines ending in a line feed alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has more than ``most`` bytes, or is not UTF-8; the message names the encoding where it is known.
    """
    path = check_file(path, "file")
    size = path.stat().st_size
    if most is not None and size > most:
        raise ValueError(f"{path} has {size:,} bytes, more than {most:,}: is it the right file?")
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:4096]:
        encoding = "UTF-16 or no text"
    if encoding is not None:
        raise ValueError(f"{path} is {encoding}: save it as UTF-8")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line} is not UTF-8, it has the byte 0x{content[error.start]:02X} (as in Windows-1252 text, or no "
            "text at all): save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path) -> list[str]:
    """The lines of a file that are not blank, without the white space around them; errors as in `read_text`."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def shown(value: object, longest: int = 60) -> str:
    """A value of a file as it stands in a message: short, on one line, nothing that a terminal obeys."""
    if isinstance(value, (dict, list, tuple, set)) and value:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value[: longest + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= longest else text[:longest] + "…"


def checked_names(names: Iterable[object], where: str) -> tuple[str, ...]:
    """Names in the order of their indices as text; numbers count as their digits.

    Raises:
        ValueError: One is empty, no text or holds control characters, or two differ in nothing but case and spaces,
            which file systems and tables mix up; the message names ``where``, the file or folder.
    """
    out: list[str] = []
    seen: dict[str, str] = {}
    for name in names:
        text = str(name) if isinstance(name, (int, float)) and not isinstance(name, bool) else name
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise ValueError(f"{where} has the class name {shown(name)}: expected printable text")
        key = "".join(text.casefold().split())
        if key in seen:
            raise ValueError(
                f"{where} has the classes {shown(seen[key])} and {shown(text)}: give each a name of its own"
            )
        seen[key] = text
        out.append(text)
    return tuple(out)
