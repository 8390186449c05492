"""Latency of every neck with its head, side by side in one process."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lab.frozen import smp
from lab.frozen.rows import CHANNELS, ROWS, decoder_of
from lab.frozen.widths import PADDED
from pst.io.files import write_text
from pst.profile.environment import environment
from pst.profile.timing import interleave

BATCHES = (1, 16)


def measure(out: Path, device: str, seconds: float) -> Path:
    """Time one forward pass of every row, folded, channels_last, float32, in turn and in another order each round.

    Returns:
        The file, ``latency-DEVICE.json``: batch -> row -> median milliseconds of one pass.
    """
    rows = [row for row in ROWS.values() if smp.is_installed() or not row.kind.startswith("smp-")]
    timed: dict[str, dict[str, float]] = {}
    for batch in BATCHES:
        cases = {}
        for row in rows:
            decoder = folded(decoder_of(row).eval()).to(device).to(memory_format=torch.channels_last)
            maps = OrderedDict(
                (
                    str(s),
                    torch.randn(batch, CHANNELS[s], PADDED[0] // s, PADDED[1] // s, device=device).contiguous(
                        memory_format=torch.channels_last
                    ),
                )
                for s in row.strides
            )
            cases[row.name] = partial(decoder, maps)
        with torch.inference_mode():
            times = interleave(cases, seconds=seconds / len(BATCHES), shuffled=True)
        timed[str(batch)] = {name: round(t.median, 4) for name, t in times.items()}
    path = out / f"latency-{device}.json"
    record: dict[str, Any] = {"device": device, "milliseconds": timed, **environment()}
    write_text(path, json.dumps(record, indent=1) + "\n")
    return path


def folded(network: nn.Module) -> nn.Module:
    """The network with every BatchNorm that follows a convolution folded into it, whoever's blocks these are."""
    for parent in network.modules():
        children = list(parent.named_children())
        for (name, conv), (after, norm) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
    return network
