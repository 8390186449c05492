"""A level of stride 4 in a detector of Ultralytics that begins at stride 8."""

from __future__ import annotations

import copy
from typing import Any

from pst.integrations.ultralytics.rows import fused

_ADDED = 6  # rows


def add_p2(d: dict[str, Any]) -> dict[str, Any]:
    """Add a level of stride 4 to neck and head, as Ultralytics' own ``yolo26-p2.yaml`` does to ``yolo26.yaml``.

    The last top-down fusion is followed by one more, with the backbone's map of stride 4 and half its channels, and
    the path back begins there. The rows after it move by six, so a checkpoint of the host fits the backbone and the
    first fusions alone.

    Args:
        d: Model dictionary of the host, as ``yaml_model_load`` returns it; left as it is.

    Returns:
        A new dictionary.

    Raises:
        ValueError: Its neck has no such shape.
    """
    d = copy.deepcopy(d)
    first, rows = len(d["backbone"]), d["backbone"] + d["head"]
    fusions = [i for i in range(first, len(rows)) if fused(rows, i) is not None]
    last = fusions[-1] if fusions else 0
    path = [row[2] for row in rows[last + 1 : last + 3]]
    p2 = _stride_4(rows, fused(rows, last)) if fusions else -1
    head = rows[-1]
    if path != ["Conv", "Concat"] or p2 < 0 or not isinstance(head[0], list) or head[0][0] != last:
        raise ValueError(
            f"{d.get('yaml_file', 'this model')} gets no level of stride 4: wanted is a neck that goes down to stride "
            "8 and back up, and a head that begins there"
        )
    upsample, block = rows[last - 2], rows[last]
    channels = block[3][0] // 2
    added = [
        [-1, *upsample[1:]],
        [[-1, p2], 1, "Concat", [1]],
        [-1, block[1], block[2], [channels, *block[3][1:]]],
        [-1, 1, "Conv", [channels, 3, 2]],
        [[-1, last], 1, "Concat", [1]],
        block,
    ]
    moved = [[_moved(row[0], last), *row[1:]] for row in rows[last + 1 :]]
    moved[-1][0] = [last + 3, *moved[-1][0]]
    d["head"] = copy.deepcopy([*rows[first : last + 1], *added, *moved])
    return d


def _stride_4(rows: list[list[Any]], maps: tuple[int, int] | None) -> int:
    """Row of the map of stride 4, from which the finer of two maps comes by one more halving; −1 for none."""
    if maps is None:
        return -1
    halvings = [i for i in range(maps[1] + 1) if rows[i][2] == "Conv" and rows[i][3][1:3] == [3, 2]]
    return halvings[-1] - 1 if len(halvings) == 3 else -1


def _moved(source: int | list[int], last: int) -> Any:
    """A row's sources once ``_ADDED`` rows stand behind the row ``last``, and the last of them in its place."""
    if isinstance(source, list):
        return [_moved(s, last) for s in source]
    return source + _ADDED if source >= last else source
