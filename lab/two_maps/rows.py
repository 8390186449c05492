"""The rows of the tables: ways to carry something from one frame to another by attention."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pst.functional.grid import Size
from pst.functional.selection import Nearest, Query, Random, SelectionRule, Window

GRID = 24  # blocks of queries along each axis
WINDOW = Window(GRID)
RATIO = 4
SEEDS = (0, 1, 2)  # of random tokens
RAW_OF = "efficientnet-lite0-raw"  # features of rows without unit length


@dataclass(frozen=True)
class Row:
    """One way.

    Attributes:
        title: For people.
        topk: k.
        selection: "mean", or a rule.
        ratio: Fine positions per coarse one along each axis; 1 with k = 0 is attention to all fine positions.
        coarse: (Hu, Wu) in place of the ratio.
        tokens: Coarse keys and values: the mean of their children, or a copy of the one in the middle.
        unit: Keys and queries at unit length; else features as they are, and the scale chosen for those.
        fusion: "refine", or "half": the mean of the coarse and of the fine result.
        group: "main", "more" (curves, seeds, expensive ones) or "without" (one thing left out).
    """

    title: str
    topk: int = 8
    selection: str | SelectionRule = WINDOW
    ratio: int = RATIO
    coarse: Size | None = None
    tokens: Literal["mean", "centre"] = "mean"
    unit: bool = True
    fusion: Literal["refine", "half"] = "refine"
    group: Literal["main", "more", "without"] = "main"

    def size(self, fine: Size) -> Size:
        """(Hu, Wu) for a fine map."""
        if self.coarse is not None:
            return self.coarse
        return math.ceil(fine[0] / self.ratio), math.ceil(fine[1] / self.ratio)

    def whole(self) -> bool:
        """Whether it is unit-length attention to all fine positions."""
        return self.ratio == 1 and self.coarse is None and self.topk == 0 and self.unit

    def plain(self) -> bool:
        """Whether `pst.propagate.carry` does it."""
        return self.coarse is None and self.tokens == "mean" and self.unit and self.fusion == "refine"

    def settings(self) -> dict[str, Any]:
        """For a result file: all that figures depend on."""
        known = {name: value for name, value in asdict(self).items() if name not in ("title", "group")}
        return {**known, "selection": str(self.selection)}

    def products(self, fine: Size) -> int:
        """Pairs of a query and a key whose logits are formed, those that selection needs on top of it included."""
        height, width = self.size(fine)
        queries, coarse = fine[0] * fine[1], height * width
        children = self.topk * math.ceil(fine[0] / height) * math.ceil(fine[1] / width)
        return queries * (coarse + children) + (_choosing(self.selection, queries) * coarse if self.topk > 0 else 0)


def _choosing(selection: str | SelectionRule, queries: int) -> int:
    """Mean queries that a rule compares with the coarse keys."""
    if selection == "mean":
        return 1
    if isinstance(selection, Window):
        return selection.grid**2
    return queries if isinstance(selection, Query) else 0


RIVALS = {"copy": "copy, as if nothing moved", "flow": "OpenCV's DIS flow (medium)"}

ROWS: dict[str, Row] = {
    "k0": Row("k = 0: coarse attention alone", topk=0),
    "mean": Row("k = 8, one set for the image (the paper's rule)", selection="mean"),
    "random-window-0": Row("k = 8, random for each block", selection=Random(0, GRID)),
    "nearest": Row("k = 8, nearest cells", selection=Nearest(GRID)),
    "window-8": Row("k = 8, each block its own (window)"),
    "all": Row("all fine positions", topk=0, ratio=1),
    **{f"window-{k}": Row(f"k = {k}, window", topk=k, group="more") for k in (1, 2, 4, 16, 32)},
    **{f"random-image-{s}": Row("k = 8, random for the image", selection=Random(s), group="more") for s in SEEDS},
    **{
        f"random-window-{s}": Row("k = 8, random for each block", selection=Random(s, GRID), group="more")
        for s in SEEDS[1:]
    },
    "query-8": Row("k = 8, each query its own", selection=Query(), group="more"),
    "dense-products": Row("k = 0, denser coarse map, equal products", topk=0, coarse=(25, 33), group="more"),
    "dense-2": Row("k = 0, coarse:fine ratio 2", topk=0, ratio=2, group="more"),
    "centre": Row("coarse tokens copy the child in the middle", tokens="centre", group="without"),
    "centre-k0": Row("the same with k = 0", topk=0, tokens="centre", group="without"),
    "dot": Row("dot product, no unit length", unit=False, group="without"),
    "dot-k0": Row("the same with k = 0", topk=0, unit=False, group="without"),
    "half": Row("gate of 0.5 in place of refine", fusion="half", group="without"),
    "ratio-8": Row("ratio 8, k = 10", topk=10, ratio=8, group="without"),
    "ratio-8-k0": Row("ratio 8, k = 0", topk=0, ratio=8, group="without"),
    "ratio-2": Row("ratio 2, k = 32", topk=32, ratio=2, group="without"),
}


def of(*groups: str) -> dict[str, Row]:
    """Rows of some groups."""
    return {name: row for name, row in ROWS.items() if row.group in groups}
