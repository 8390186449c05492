"""Names of classes: what every reader asks of them."""

from __future__ import annotations

from collections.abc import Iterable

from pst.data.text import shown


def checked_names(names: Iterable[object], where: str) -> tuple[str, ...]:
    """Names as text.

    Args:
        names: In the order of their indices; numbers count as their digits.
        where: File or folder they come from, for the message.

    Raises:
        ValueError: One is empty, no text or holds control characters, or two differ in nothing but case and spaces,
            which file systems and tables mix up.
    """
    out: list[str] = []
    seen: dict[str, str] = {}
    for name in names:
        text = str(name) if isinstance(name, (int, float)) and not isinstance(name, bool) else name
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise ValueError(f"{where} has the class name {shown(name)}: expected printable text")
        key = "".join(text.casefold().split())
        if key in seen:
            raise ValueError(f"{where} has the classes {seen[key]!r} and {text!r}: give each class a name of its own")
        seen[key] = text
        out.append(text)
    return tuple(out)
