"""Values in a COCO file: ids, sizes, boxes and segmentations, each checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pst.data.text import shown

_LARGEST = 1e9  # pixels


def where(file: Path, kind: str, entry: Mapping[str, Any], i: int) -> str:
    """What a message calls entry ``i``: by its id, or where it has none by its place."""
    key = entry.get("id")
    return f"{file}: {kind} {shown(key)}" if isinstance(key, (int, str)) else f"{file}: {kind} number {i + 1}"


def identity(value: Any, where: str) -> int | str:
    """An id; whole numbers are the same as text and as a number."""
    if isinstance(value, str) and value:
        return int(value) if re.fullmatch(r"0|[1-9][0-9]{0,17}", value) else value
    if type(value) is int or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise ValueError(f"{where} has the id {shown(value)}, expected a number or text")


def size(image: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """(width, height) in pixels; None where one is not given, or 0."""
    pair: tuple[Any, Any] = image.get("width"), image.get("height")
    if any(each is None or (_is_number(each) and each == 0) for each in pair):
        return None
    if not all(_is_number(each) and each > 0 and each == int(each) for each in pair):
        raise ValueError(f"{where} has the size {shown(pair[0])} × {shown(pair[1])}, expected whole pixels")
    return int(pair[0]), int(pair[1])


def box(annotation: Mapping[str, Any], size: tuple[int, int], where: str) -> list[float] | None:
    """[left, top, right, bottom] in pixels; that of the segmentation where there is no box, None without either."""
    value = annotation.get("bbox")
    if value in (None, []):
        try:
            drawn = segment(annotation, size, where)
        except ValueError:
            return None
        return _around(drawn) if isinstance(drawn, list) else None
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)) or min(value[2:]) < 0:
        listed = ", ".join(map(shown, value[:9])) if isinstance(value, list) else shown(value)
        raise ValueError(f"{where} has the bbox {listed}: expected [left, top, width, height] in pixels")
    left, top, width, height = map(float, value)
    return [left, top, left + width, top + height]


def is_crowd(annotation: Mapping[str, Any], file: Path) -> bool:
    """Whether an annotation is of a crowd."""
    value = annotation.get("iscrowd")
    if value not in (None, 0, 1):
        raise ValueError(f"{where(file, 'annotation', annotation, 0)} has iscrowd {shown(value)}, expected 0 or 1")
    return bool(value)


def segment(
    annotation: Mapping[str, Any], size: tuple[int, int], place: Path | str
) -> list[list[float]] | dict[str, Any]:
    """Polygons, or run lengths as numbers.

    Empty polygons are left out. Points are brought to at most one image size beyond the edges.

    Raises:
        ValueError: It can't be drawn; the message names the annotation.
    """
    value = annotation.get("segmentation")
    name = where(place, "annotation", annotation, 0) if isinstance(place, Path) else place
    if isinstance(value, dict):
        return _run_lengths(value, size, name)
    polygons = [each for each in value if each != []] if isinstance(value, list) else []
    if not polygons or not all(map(_is_polygon, polygons)):
        raise ValueError(f"{name} has no segmentation that can be drawn: expected polygons of 3 points or more")
    limits = itertools.cycle(size)
    return [
        [min(max(float(n), -limit), 2 * limit) for n, limit in zip(each, limits, strict=False)] for each in polygons
    ]


def _run_lengths(value: Mapping[str, Any], size: tuple[int, int], name: str) -> dict[str, Any]:
    counts, (width, height) = value.get("counts"), size
    if value.get("size") != [height, width]:
        raise ValueError(f"{name} has run lengths of another size than its image, {height}×{width}")
    runs: Any = _uncompressed(counts) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not whole or sum(runs) != width * height:
        raise ValueError(f"{name} has run lengths that don't cover its image of {height}×{width} pixels")
    return {"size": [height, width], "counts": runs}


def _uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: groups of 5 bits, from the third on differences to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for group in (ord(letter) - 48 for letter in text):
        if not 0 <= group < 64 or shift > 60:
            return [-1]
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:  # the last group, whose highest bit is the sign
            value -= (1 << shift) if group & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _around(polygons: list[list[float]]) -> list[float]:
    x, y = [n for each in polygons for n in each[::2]], [n for each in polygons for n in each[1::2]]
    return [min(x), min(y), max(x), max(y)]


def _is_polygon(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    """A number of pixels; not NaN, infinite, or absurdly large."""
    return type(value) in (int, float) and abs(value) <= _LARGEST
