"""Other ways to fuse feature maps, measured in the same run: single layers, and necks of three levels."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.bench.roofline import Roofline
from pst.control.folding import fuse
from pst.modules import PST, ConvNormAct, PSTPyramid
from pst.profile.flops import count_work
from pst.profile.timing import interleave

WIDTH = 64  # C of every neck's output; the widths of YOLO11n at 640 px go in
LEVELS = ((64, 80), (128, 40), (256, 20))  # (channels, side) of P3, P4, P5


class SelfAttention(nn.Module):
    """Full self-attention over the fine map with the upper map added: PST's projections, N keys instead of M."""

    def __init__(self, in_channels: int, upper_channels: int, out_channels: int) -> None:
        super().__init__()
        dim = out_channels // 2
        self.heads = dim // 32
        self.reduce, self.reduce_upper = ConvNormAct(in_channels, dim), ConvNormAct(upper_channels, dim)
        self.qkv, self.proj = ConvNormAct(dim, 3 * dim, act=False), ConvNormAct(dim, dim, act=False)
        self.pe = ConvNormAct(dim, dim, 7, groups=dim, act=False)
        self.mlp = nn.Sequential(ConvNormAct(dim, 2 * dim), ConvNormAct(2 * dim, dim, act=False))
        self.project = ConvNormAct(2 * dim, out_channels)

    def forward(self, x: Tensor, upper: Tensor) -> Tensor:
        """x (B, C1, H, W) and upper (B, Cu, Hu, Wu) -> (B, C2, H, W)."""
        first = self.reduce(x) + F.interpolate(self.reduce_upper(upper), size=x.shape[2:], mode="nearest")
        tokens = self.qkv(first).permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (3, self.heads, 32))
        query, key, value = tokens.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        merged, values = (t.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:]) for t in (out, value))
        z = first + self.proj(merged + self.pe(values))
        return self.project(torch.cat([first, z + self.mlp(z)], 1))


class ConcatA2C2f(nn.Module):
    """Ultralytics' area-attention block after upsampling and concatenation, as YOLO12's neck is built."""

    def __init__(self, in_channels: int, upper_channels: int, out_channels: int, area: int) -> None:
        super().__init__()
        from ultralytics.nn.modules import A2C2f

        self.block = A2C2f(in_channels + upper_channels, out_channels, 1, area > 0, area)

    def forward(self, x: Tensor, upper: Tensor) -> Tensor:
        """x (B, C1, H, W) and upper (B, Cu, Hu, Wu) -> (B, C2, H, W)."""
        return self.block(torch.cat([x, F.interpolate(upper, size=x.shape[2:], mode="nearest")], 1))


class FPN(nn.Module):
    """torchvision's feature pyramid network; with ``bottom_up`` PAN's path from fine to coarse behind it."""

    def __init__(self, in_channels: list[int], out_channels: int, *, bottom_up: bool = False) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.fpn = FeaturePyramidNetwork(in_channels, out_channels)
        steps = len(in_channels) - 1 if bottom_up else 0
        self.down = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, 2, 1) for _ in range(steps))
        self.smooth = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, 1, 1) for _ in range(steps))

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """Maps from fine to coarse -> as many of one width."""
        outputs = list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
        for i, (down, smooth) in enumerate(zip(self.down, self.smooth, strict=True)):
            outputs[i + 1] = smooth(outputs[i + 1] + down(outputs[i]))
        return outputs


class Neck(nn.Module):
    """A neck that takes a list, called with the maps as arguments."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, *maps: Tensor) -> Any:
        """Maps from fine to coarse -> what the neck gives."""
        return self.neck(list(maps))


def layers(width: int = 2 * WIDTH) -> dict[str, Callable[[], nn.Module]]:
    """Name -> builder of a layer (x, upper) -> map of x's size, all three of ``width`` channels."""
    widths = (width, width, width)
    return {
        "PST k=0": partial(PST, *widths),
        "PST k=8": partial(PST, *widths, topk=8),
        "self-attention (SDPA)": partial(SelfAttention, *widths),
        "A2C2f area 4": partial(ConcatA2C2f, *widths, 4),
        "A2C2f area 1": partial(ConcatA2C2f, *widths, 1),
        "A2C2f without attention": partial(ConcatA2C2f, *widths, -1),
    }


def necks() -> dict[str, Callable[[], nn.Module]]:
    """Name -> builder of a neck over `LEVELS`."""
    channels = [c for c, _ in LEVELS]
    return {
        "PSTPyramid k=0": lambda: Neck(PSTPyramid(channels, WIDTH)),
        "PSTPyramid k=8": lambda: Neck(PSTPyramid(channels, WIDTH, topk=8)),
        "FPN (torchvision)": partial(FPN, channels, WIDTH),
        "PAN": partial(FPN, channels, WIDTH, bottom_up=True),
        "BiFPN (effdet)": lambda: Neck(_bifpn()),
    }


def run_rivals(
    builders: dict[str, Callable[[], nn.Module]], maps: list[Tensor], *, roofline: Roofline, seconds: float
) -> list[dict[str, Any]]:
    """Forward pass in eval mode, channels_last, all in turn; the first is the baseline of ``ratio``.

    Args:
        builders: From `layers` or `necks`.
        maps: What each is called with.
        roofline: Peaks of this machine.
        seconds: Time for all together.

    Returns:
        One record for each; a rival whose package is not installed has ``skipped``, the reason, instead of times.
    """
    modules = {name: _build(build) for name, build in builders.items()}
    built = {name: module for name, module in modules.items() if not isinstance(module, str)}
    skipped = {name: reason for name, reason in modules.items() if isinstance(reason, str)}
    with torch.inference_mode():
        times = interleave({name: partial(module, *maps) for name, module in built.items()}, seconds=seconds)
    base = next(iter(times.values())).median
    records: list[dict[str, Any]] = []
    for name, module in built.items():
        work = count_work(module, maps)
        records.append(
            {
                "name": name,
                "ms": times[name].__dict__,
                "ratio": times[name].median / base,
                "parameters": sum(p.numel() for p in module.parameters()),
                "gflops": work.flops / 1e9,
                "share": roofline.least_ms(work) / times[name].median,
            }
        )
    return records + [{"name": name, "skipped": reason} for name, reason in skipped.items()]


def _build(build: Callable[[], nn.Module]) -> nn.Module | str:
    """The module, or why it cannot be built here."""
    try:
        module = build().eval()
        ours = any(isinstance(m, ConvNormAct) for m in module.modules())
        return (fuse(module) if ours else module).to(memory_format=torch.channels_last)
    except ImportError as error:
        return f"{error}: pip install 'pyramid-sparse-transformer[bench]'"


def _bifpn() -> nn.Module:
    """One cell of EfficientDet's BiFPN over `LEVELS`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # effdet still scripts its matcher
        from effdet.config import get_efficientdet_config
        from effdet.efficientdet import BiFpn
    config: Any = get_efficientdet_config("tf_efficientdet_d0")
    config.update(image_size=(640, 640), min_level=3, max_level=5, num_levels=3, fpn_channels=WIDTH)
    config.fpn_cell_repeats = 1
    return BiFpn(config, [{"num_chs": c, "reduction": 640 // side} for c, side in LEVELS])
