"""PST in the neck of a model that Ultralytics ships, everything else being the host's own."""

from __future__ import annotations

import copy
import math
from typing import Any

from ultralytics.utils.ops import make_divisible

from pst.integrations.ultralytics.finest import add_p2
from pst.integrations.ultralytics.parser import ROW_NAME
from pst.integrations.ultralytics.rows import fused

_MLP_RATIO, _EXPANSION, _HEAD_DIM = 2, 0.5, 32  # as in all of the paper's models


def pst_neck(d: dict[str, Any], *, finest: int = 8) -> dict[str, Any]:
    """Put PST in the place of the blocks that fuse from coarse to fine.

    Top-down fusion is Upsample, Concat with a finer map, and a block (C3k2, A2C2f, C2f, RepC3, …). Only the block
    changes, into a PST row of its width and repeats. Its sources are those of the paper's detectors: x is the
    concatenated map; upper is the map that the level above started from, for the first fusion the one upsampled and
    for each later one the finer map that the fusion before it took in. Made of YOLO12, this is the paper's YOLO11-PST.

    So every row keeps its number, the host's pretrained weights load into all the rest, and a comparison with the host
    measures PST alone. Other sources are an edit of a row in a YAML of your own, YOLO11's ``[[-1, 6], 2, PST, …]`` at
    P3 for example: ``[[-1, 13], …]`` attends to the fused P4, ``[[4, 6], …]`` takes x without the upsampled map.

    A classifier fuses nothing: it gets the paper's fusion between its last two stages, which adds to the host
    instead of replacing a part of it.

    Args:
        d: Model dictionary of the host, as ``yaml_model_load`` returns it; left as it is.
        finest: Stride of the finest level. 4 adds one to a host that begins at 8, see
            `pst.integrations.ultralytics.finest.add_p2`; then the rows after it have other numbers.

    Returns:
        A new dictionary of plain rows.

    Raises:
        ValueError: Nothing there that PST could replace, or ``finest`` is neither 4 nor 8.
    """
    if finest not in (4, 8):
        raise ValueError(f"finest, the stride of the finest level, must be 4 or 8, got {finest!r}")
    d = add_p2(d) if finest == 4 else copy.deepcopy(d)
    if d["head"][-1][2] == "Classify":
        d["head"][-1:] = [*_classifier_fusion(d), d["head"][-1]]
        return d
    first, upper = len(d["backbone"]), None
    rows = d["backbone"] + d["head"]
    for i in range(first, len(rows)):
        if (maps := fused(rows, i)) is not None:
            coarse, fine = maps
            _, repeats, _, args = rows[i]
            d["head"][i - first] = _pst_row(d, [-1, coarse if upper is None else upper], repeats, args[0])
            upper = fine
    if upper is None:
        raise ValueError(
            f"{d.get('yaml_file', 'this model')} has no top-down fusion (Upsample, Concat, block) for PST to replace"
        )
    return d


def _classifier_fusion(d: dict[str, Any]) -> list[list[Any]]:
    """The paper's fusion of a classifier's last two stages, P4 and P5, down to P5 again."""
    p5 = len(d["backbone"]) - 1
    downsampling = [i for i, (_, _, name, args) in enumerate(d["backbone"]) if name == "Conv" and args[1:3] == [3, 2]]
    p4 = downsampling[-1] - 1
    return [
        _pst_row(d, [p4, p5], 2, 1024),
        [[-1, p4], 1, "Concat", [1]],
        [-1, 1, "Conv", [1024, 3, 2]],
        [[-1, p5], 1, "Concat", [1]],
    ]


def _pst_row(d: dict[str, Any], sources: list[int], repeats: int, out_channels: int) -> list[Any]:
    """A PST row with heads of 32, or the widest that divide its hidden width at every scale where 32 does not."""
    scales = [(width, limit) for _, width, limit in d.get("scales", {}).values()]
    widths = [make_divisible(min(out_channels, limit) * width, 8) for width, limit in scales]
    head_dim = math.gcd(_HEAD_DIM, *(int(width * _EXPANSION) for width in widths))
    options = [] if head_dim == _HEAD_DIM else [{"head_dim": head_dim}]
    return [sources, repeats, ROW_NAME, [out_channels, _MLP_RATIO, _EXPANSION, *options]]
