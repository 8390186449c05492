"""Points of frames, as CSV files: those that people mark, and those that are carried."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pst.data.text import read_text, shown
from pst.io.files import explained, replacing
from pst.propagate.memory import MOST_POINTS
from pst.propagate.sequence import Frames

_COLUMNS = ["frame", "id", "x", "y"]
_MOST_BYTES = 2**26  # of a file of points


class Tracks(NamedTuple):
    """Points that people marked.

    Attributes:
        ids: P names, in the order of the first frame in the file.
        xy: Frame -> (P, 2) float32 pixels from the left and the top.
    """

    ids: tuple[str, ...]
    xy: dict[int, NDArray[np.float32]]


def read_tracks(path: Path, frames: Frames) -> Tracks:
    """Points from a file with the columns frame, id, x and y.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is wrong, a point is outside the picture, or frames differ in their points.
    """
    lines = _lines(path, most=_MOST_BYTES)
    if not lines or [cell.strip().lower() for cell in lines[0]] != _COLUMNS:
        got = shown(",".join(lines[0])) if lines else "an empty file"
        raise ValueError(f"{path}:1 must be the header {','.join(_COLUMNS)}, got {got}")
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        where = f"{path}:{number}"
        if len(line) != len(_COLUMNS):
            raise ValueError(f"{where} has {len(line)} cells, wanted are {','.join(_COLUMNS)}")
        try:
            index = frames.index(line[0].strip())
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        name = line[1].strip()
        if name in found.setdefault(index, {}):
            raise ValueError(f"{where}: frame {index} has the point {shown(name)} already")
        found[index][name] = _place(line[2:], frames.size, where)
    if not found:
        raise ValueError(f"{path} holds no points: write one line of {','.join(_COLUMNS)} for each")
    ids = tuple(next(iter(found.values())))
    if len(ids) > MOST_POINTS:
        raise ValueError(
            f"{path} has {len(ids):,} points in a frame, and at most {MOST_POINTS:,} are carried: split it"
        )
    for index, points in found.items():
        if differing := sorted(set(points) ^ set(ids)):
            raise ValueError(
                f"{path}: every frame must have the same ids, and frame {index} differs in {shown(differing[0])}"
            )
    return Tracks(ids, {i: np.array([found[i][name] for name in ids], np.float32) for i in sorted(found)})


def _place(cells: Sequence[str], size: tuple[int, int], where: str) -> tuple[float, float]:
    x, y = (_number(cell, f"{where}: {name}") for name, cell in zip("xy", cells, strict=True))
    if not (0 <= x <= size[0] and 0 <= y <= size[1]):
        raise ValueError(
            f"{where} is outside the picture: expected x from 0 to {size[0]} and y from 0 to {size[1]}, got "
            f"{', '.join(shown(cell) for cell in cells)}"
        )
    return x, y


def _number(cell: str, what: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{what} is {shown(cell)}, which is not a number: expected pixels, e.g. 120.5") from None


def write_points(rows: Iterable[Sequence[object]], path: Path) -> None:
    """Lines of frame, id, x, y and confidence under a header, atomically; floats as they are, to the last bit."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, "confidence"])
        writer.writerows(rows)


def read_points(path: Path) -> list[list[str]]:
    """The lines that `write_points` wrote.

    Raises:
        ValueError: It is no such file.
    """
    lines = _lines(path)
    if not lines or lines[0] != [*_COLUMNS, "confidence"] or any(len(line) != 5 for line in lines):
        raise ValueError(f"{path} is damaged: delete it, and it is made again")
    return lines[1:]


def _lines(path: Path, most: int | None = None) -> list[list[str]]:
    with explained(str(path)):
        return list(csv.reader(io.StringIO(read_text(path, most=most))))


def points_of(lines: Sequence[Sequence[str]], path: Path, ids: Sequence[str]) -> NDArray[np.float32]:
    """(P, 2) places from lines of `read_points`.

    Raises:
        ValueError: They are of other points, or no numbers.
    """
    try:
        if [line[1] for line in lines] != list(ids):
            raise ValueError("other points")  # noqa: TRY301
        return np.array([(np.float32(line[2]), np.float32(line[3])) for line in lines], np.float32)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: delete it, and it is made again") from error
