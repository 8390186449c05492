"""How rows of an Ultralytics YAML refer to one another."""

from __future__ import annotations

from typing import Any


def absolute(source: int, i: int) -> int:
    """Row that ``source``, as written in row ``i``, refers to."""
    return source if source >= 0 else i + source


def fused(rows: list[list[Any]], i: int) -> tuple[int, int] | None:
    """Rows of the coarser and the finer map that row ``i`` fuses from the top down; None when it does no such thing."""
    concat = rows[i - 1]
    if rows[i][0] != -1 or concat[2] != "Concat":
        return None
    joined = [absolute(source, i - 1) for source in concat[0]]
    upsampled = [j for j in joined if rows[j][2] == "nn.Upsample"]
    if not upsampled:
        return None
    return absolute(rows[upsampled[0]][0], upsampled[0]), next(j for j in joined if j not in upsampled)
