"""What is compared: necks and decoders by name, at about equal cost, and how each is built.

Rows of one group get the same maps and, as far as their widths allow, the GFLOPs and parameters of one row of it, see
`FIRST`. `lab.frozen.widths` has chosen the widths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lab.frozen import necks, smp
from pst.integrations.segmentation.decoder import SegmentationDecoder
from pst.modules import Laterals, PSTPyramid

HEAD = 64  # width of the segmenter's head
DIM = 64  # of attention: two heads of 32
BOX_WIDTH = 64  # of every neck that finds boxes, so that the head is the same; small enough for a CPU
_BOX_MLP_RATIO = 2.0
CHANNELS = {4: 24, 8: 40, 16: 112, 32: 320}  # of tf_efficientnet_lite0
WIDTHS = Path(__file__).with_name("widths.json")


@dataclass(frozen=True)
class Row:
    """One neck.

    Attributes:
        name: Of its files.
        group: "P3" (strides 8 to 32) or "P2" (4 to 32).
        kind: "pst", a key of `RIVALS`, or "smp-…".
        options: Of `pst.PSTPyramid`.
    """

    name: str
    group: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of its maps."""
        return (8, 16, 32) if self.group == "P3" else (4, 8, 16, 32)


RIVALS: dict[str, Callable[..., nn.Module]] = {
    "laterals": Laterals,
    "fpn": necks.FPN,
    "plain-fpn": partial(necks.FPN, norm=False),
    "pan": necks.PAN,
    "bifpn": necks.BiFPN,
    "pooled-fpn": necks.PooledFPN,
}
_WIRINGS: dict[str, dict[str, Any]] = {
    "attention": {"wiring": "attention"},
    "concat": {"wiring": "concat"},
    "add": {"wiring": "add"},
    "aligned": {"wiring": "add", "aligned": True},
}


def _pst(group: str) -> list[Row]:
    found = []
    for name, wiring in _WIRINGS.items():
        for upsample, depth in (("bilinear", 1), ("dysample", 1), ("bilinear", 2), ("dysample", 2)):
            tail = ("-dysample" if upsample == "dysample" else "") + ("-deep" if depth == 2 else "")
            found.append(Row(f"pst-{name}{tail}", group, "pst", {**wiring, "upsample": upsample, "depth": depth}))
    for name in ("attention", "concat", "add"):
        options = {**_WIRINGS[name], "bottom_up": True}
        found.append(Row(f"pst-{name}-bottom-up", group, "pst", options))
    return [*found, *_bound("pst", group)]


def _bound(start: str, group: str) -> list[Row]:
    more = {"max_tokens": 100}
    return [Row(f"{start}-{name}-bound", group, "pst", {**_WIRINGS[name], **more}) for name in ("attention", "add")]


def _fine() -> list[Row]:
    found = [Row(f"p2-pst-{name}", "P2", "pst", _WIRINGS[name]) for name in ("attention", "concat", "add", "aligned")]
    rivals = [Row(f"p2-{name}", "P2", name) for name in ("fpn", "plain-fpn", "pan", "bifpn", "pooled-fpn", "laterals")]
    return [*found, *_bound("p2-pst", "P2"), *rivals]


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        *_pst("P3"),
        *(Row(name, "P3", name) for name in RIVALS),
        *_fine(),
        *(Row(f"smp-{kind}", "P2", f"smp-{kind}") for kind in smp.KINDS),
    )
}
FIRST = {"P3": "pst-attention", "P2": "p2-pst-attention-bound"}
TRAINED = (
    "pst-attention",
    "pst-concat",
    "pst-add",
    "pst-aligned",
    "fpn",
    "plain-fpn",
    "pan",
    "bifpn",
    "pooled-fpn",
    "laterals",
    "p2-pst-attention-bound",
    "p2-pst-add",
    "p2-fpn",
    "p2-plain-fpn",
    "p2-laterals",
    "smp-upernet",
)  # rows that segment, trained with the backbone as well
DETECTED = (
    "pst-attention",
    "pst-concat",
    "pst-add",
    "pst-aligned",
    "fpn",
    "plain-fpn",
    "pan",
    "bifpn",
    "laterals",
    "p2-pst-attention-bound",
    "p2-fpn",
    "p2-plain-fpn",
    "p2-laterals",
)  # rows that find boxes, all of one width
DETECTED_TRAINED = (
    "pst-attention",
    "fpn",
    "plain-fpn",
    "laterals",
    "p2-pst-attention-bound",
    "p2-plain-fpn",
    "p2-laterals",
)  # of these, the trained ones


def build_neck(row: Row, width: int, mlp_ratio: float, channels: Mapping[int, int] = CHANNELS) -> nn.Module:
    """The neck, from an OrderedDict of maps to one of as many maps of ``width`` channels."""
    widths = [channels[s] for s in row.strides]
    if row.kind == "pst":
        shared = {"expansion": (DIM + 0.5) / width, "mlp_ratio": mlp_ratio}
        return PSTPyramid(widths, width, **{**shared, **row.options})
    return RIVALS[row.kind](widths, width)


def box_neck(row: Row, channels: Mapping[int, int] = CHANNELS) -> nn.Module:
    """`build_neck` of `BOX_WIDTH`."""
    return build_neck(row, BOX_WIDTH, _BOX_MLP_RATIO, channels)


def build_decoder(row: Row, width: int, mlp_ratio: float, channels: Mapping[int, int] = CHANNELS) -> Any:
    """Neck and head as one: maps by stride -> (B, out_channels, H, W)."""
    widths = [channels[s] for s in row.strides]
    if row.kind.startswith("smp-"):
        return smp.Decoder(row.kind.removeprefix("smp-"), widths, width)
    decoder = SegmentationDecoder(row.strides, widths, width, HEAD, "fpn")
    decoder.neck = build_neck(row, width, mlp_ratio, channels)
    return decoder


def chosen(row: Row) -> dict[str, Any]:
    """Width and ``mlp_ratio`` of a row, with its parameters and GFLOPs, as `lab.frozen.widths` found them."""
    return json.loads(WIDTHS.read_text())[row.name]


def decoder_of(row: Row, channels: Mapping[int, int] = CHANNELS) -> Any:
    """`build_decoder` at the width of this row."""
    found = chosen(row)
    return partial(build_decoder, row, found["width"], found["mlp_ratio"])(channels)
