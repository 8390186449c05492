"""Latency of every neck with its head, side by side in one process."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lab.frozen import smp
from lab.frozen.pack import EDGE
from lab.frozen.rows import CHANNELS, DETECTED, ROWS, Row, box_neck, decoder_of
from lab.frozen.widths import PADDED
from pst.io.files import write_text
from pst.profile.environment import environment
from pst.profile.timing import interleave

BATCHES = (1, 16)


def measure(out: Path, device: str, seconds: float) -> Path:
    """Time one forward pass of every row, folded, channels_last, float32, in turn and in another order each round.

    Rows that segment are timed with their head; those that find boxes without it, as it is the same.

    Returns:
        The file, ``latency-DEVICE.json``: batch -> row -> median milliseconds of one pass, and the same of "boxes".
    """
    rows = [row for row in ROWS.values() if smp.is_installed() or not row.kind.startswith("smp-")]
    boxes = [ROWS[name] for name in DETECTED]
    share = seconds / 2 / len(BATCHES)
    timed = {
        "milliseconds": {str(n): _medians(rows, decoder_of, PADDED, n, device, share) for n in BATCHES},
        "boxes": {str(n): _medians(boxes, box_neck, (EDGE, EDGE), n, device, share) for n in BATCHES},
    }
    path = out / f"latency-{device}.json"
    record: dict[str, Any] = {"device": device, **timed, **environment()}
    write_text(path, json.dumps(record, indent=1) + "\n")
    return path


def _medians(
    rows: Sequence[Row],
    build: Callable[[Row], nn.Module],
    size: tuple[int, int],
    batch: int,
    device: str,
    seconds: float,
) -> dict[str, float]:
    """Median milliseconds of each row, on maps of pictures of a size."""
    cases = {}
    for row in rows:
        network = folded(build(row).eval()).to(device).to(memory_format=torch.channels_last)
        maps = OrderedDict((str(s), _map(batch, s, size, device)) for s in row.strides)
        cases[row.name] = partial(network, maps)
    with torch.inference_mode():
        times = interleave(cases, seconds=seconds, shuffled=True)
    return {name: round(t.median, 4) for name, t in times.items()}


def _map(batch: int, stride: int, size: tuple[int, int], device: str) -> Tensor:
    x = torch.randn(batch, CHANNELS[stride], size[0] // stride, size[1] // stride, device=device)
    return x.contiguous(memory_format=torch.channels_last)


def folded(network: nn.Module) -> nn.Module:
    """The network with every BatchNorm that follows a convolution folded into it, whoever's blocks these are."""
    for parent in network.modules():
        children = list(parent.named_children())
        for (name, conv), (after, norm) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
    return network
