"""Text between two markers of a page, which is made again while the prose around it stays."""

from __future__ import annotations

from pathlib import Path


def replace_between(page: str, marks: tuple[str, str], text: str, path: Path) -> str:
    """Put a text between two markers.

    Args:
        page: Content of the page.
        marks: The lines that the text stands between.
        text: Without the markers; empty lines around it are added.
        path: Of the page, for the error.

    Returns:
        The page with the text in place of what stood there.

    Raises:
        ValueError: The page does not hold each marker once, the first before the second.
    """
    begin, end = marks
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"{path} must hold the lines {begin} and {end}, once each and in this order")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
