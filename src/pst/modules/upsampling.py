"""How a coarser map is brought to the size of a finer one: bilinearly, or where the layer learns to look."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Upsample = Literal["bilinear", "dysample"]

_SCOPE = 0.25  # an offset is this share of what the convolution gives, in positions of the coarse map
_RATIO = 2  # each coarse position has offsets for so many points along each axis


class DySample(nn.Module):
    """Bilinear resizing at points that are moved by learnt offsets (DySample, arXiv 2308.15085).

    This is the paper's variant "linear + pixel shuffle" with static scope: a 1×1 convolution of the coarse map gives
    each of 2×2 points of a position an offset, in rows and columns, for every group of channels; a quarter of it is
    added to the point. The paper upsamples by whole ratios; for any other size the offsets are resized bilinearly.
    Offsets begin at zero, so that the module begins as bilinear resizing.

    Args:
        channels: C, of the map.
        groups: Groups of channels with offsets of their own; must divide ``channels``.

    Raises:
        ValueError: ``groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(
                f'upsample="dysample" moves {groups} groups of channels: the channels of the coarser map must be a '
                f"multiple of {groups}, got {channels}"
            )
        self.groups = groups
        self.offset = nn.Conv2d(channels, 2 * groups * _RATIO**2, 1)
        self.start()

    def start(self) -> None:
        """Set all offsets to zero."""
        for p in self.offset.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, H, W) -> (B, C, *size), in the dtype and memory format of ``x``."""
        batch, channels, height, width = x.shape
        wide = torch.promote_types(x.dtype, torch.float32)  # a place in 16 bits would miss its pixel
        offset = F.pixel_shuffle(self.offset(x).to(wide) * _SCOPE, _RATIO)
        offset = F.interpolate(offset, size, mode="bilinear", align_corners=False)
        columns, rows = offset.reshape(batch * self.groups, 2, *size).unbind(1)
        place = torch.stack([_centres(columns, 2) + columns * 2 / width, _centres(rows, 1) + rows * 2 / height], -1)
        parts = x.reshape(batch * self.groups, channels // self.groups, height, width)
        moved = F.grid_sample(parts.to(wide), place, mode="bilinear", padding_mode="border", align_corners=False)
        out = moved.reshape(batch, channels, *size).to(x.dtype)
        return out if x.is_contiguous() else out.contiguous(memory_format=torch.channels_last)

    def extra_repr(self) -> str:
        """Settings shown in ``print(module)``."""
        return f"groups={self.groups}"


def build_upsampling(upsample: Upsample, channels: int) -> DySample | None:
    """The Module of a name for maps of so many channels; None is bilinear, which has nothing to learn.

    Raises:
        ValueError: There is no such name, or ``channels`` do not suit it.
    """
    if upsample not in get_args(Upsample):
        raise ValueError(f"upsample must be one of {', '.join(get_args(Upsample))}, got {upsample!r}")
    return DySample(channels) if upsample == "dysample" else None


def resize(upsampling: nn.Module | None, x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), by what `build_upsampling` gave."""
    if upsampling is None:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    return upsampling(x, size)


def _centres(like: Tensor, axis: int) -> Tensor:
    """Centres of positions along an axis of (B, H, W), from −1 to 1, ready to be added to such a map."""
    count = like.shape[axis]
    places = (torch.arange(count, device=like.device, dtype=like.dtype) * 2 + 1) / count - 1
    return places if axis == 2 else places[:, None]
