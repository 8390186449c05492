"""Plain vision transformers as bodies: one map of one stride, made into levels of stride 4 to 32."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pst.backbones.channels import check_channels, check_size
from pst.backbones.simple_pyramid import SimplePyramid
from pst.backbones.weights import fill

REDUCTIONS = (4, 8, 16, 32)


class PlainBody(nn.Module):
    """A plain vision transformer and a `SimplePyramid` on its last map; see `pst.backbones.build_body`.

    A token stands for ``stride`` pixels of the image, the power of two next to the patch: 16 for patches of 14 or 16.
    The image gets zeros at the right and bottom up to multiples of it and, where the patch differs, is shown to the
    network at patch/stride of its size. So a reduction is exact for every image size and patch.

    Args:
        model: The transformer.
        name: For messages.
        width: Channels of every level.
        patch: Edge of the network's patches in pixels.
        tokens: Channels of its map.
        in_channels: Of the images.
        image_size: The only size (H, W) that the network takes, in its own pixels; None means any.
        finest: Reduction of the first level.
        coarsest: Reduction of the last level.
        statistics: Mean and standard deviation of each channel that the network was trained with.
        frozen: Keep the transformer as it is: no gradients, eval mode also in training. The pyramid always trains.

    Attributes:
        in_channels: Of the images.
        reductions: Of each level, finest first.
        channels: Of each level.
        multiple: What the sides of images are filled up to.
        image_size: The only (H, W) of images that can be taken; None means any.
        mean: Of each channel of images from 0 to 1, as the network was trained.
        std: Standard deviation, likewise.
        frozen: Whether the transformer is; `freeze` makes it so.

    Raises:
        ValueError: There are no such levels, or ``width`` is not an integer ≥ 1.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        width: int = 256,
        patch: int,
        tokens: int,
        in_channels: int,
        image_size: tuple[int, int] | None,
        finest: int,
        coarsest: int,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if type(width) is not int or width < 1:
            raise ValueError(f"width, the channels of the levels of {name}, must be an integer ≥ 1, got {width!r}")
        if coarsest not in REDUCTIONS:
            raise ValueError(
                f"{name} is a plain vision transformer: levels of reductions {list(REDUCTIONS)} are made of its map, "
                f"none of {coarsest}"
            )
        self.name, self.patch, self.in_channels = name, patch, in_channels
        self.mean, self.std = statistics
        self.multiple = 2 ** round(math.log2(patch))
        self.image_size = None
        if image_size is not None:
            self.image_size = (image_size[0] * self.multiple // patch, image_size[1] * self.multiple // patch)
        self.reductions = tuple(r for r in REDUCTIONS if finest <= r <= coarsest)
        self.channels = (width,) * len(self.reductions)
        self.pyramid = SimplePyramid(tokens, self.multiple, self.reductions, width)
        self.frozen = frozen
        self.set_model(model)

    @abstractmethod
    def tokens(self, x: Tensor) -> Tensor:
        """Images whose sides are multiples of the patch -> map of patch tokens (B, C, H/patch, W/patch)."""

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, in_channels, H, W) -> level (B, width, ⌈H/r⌉, ⌈W/r⌉) by ``str(r)`` of the filled image.

        Raises:
            ValueError: The images have other channels, or the network takes one size only, which is another.
        """
        check_channels(self.name, x, self.in_channels)
        check_size(self.name, x, self.image_size)
        m, (height, width) = self.multiple, x.shape[2:]
        x = F.pad(x, (0, -width % m, 0, -height % m))
        if self.patch != m:
            size = [x.shape[2] // m * self.patch, x.shape[3] // m * self.patch]
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        x = self.tokens(x)
        return self.pyramid(x.detach() if self.frozen else x)

    def set_model(self, model: nn.Module) -> None:
        """Take another transformer of the same kind."""
        self.model: Any = model.train(self.training)
        if self.frozen:
            self.freeze()

    def take_own(self, state: Mapping[str, Tensor], source: str) -> bool:
        """Load a state dict of a body like this one, its pyramid included; False if it has no pyramid.

        Raises:
            ValueError: It does not fit this body.
        """
        if not any(name.startswith("pyramid.") for name in state):
            return False
        fill(self, state, source)
        return True

    def keep(self, reductions: Sequence[int]) -> None:
        """Drop all levels but these."""
        for r in {*self.reductions} - {*reductions}:
            del self.pyramid.levels[str(r)]
        self.reductions = tuple(r for r in self.reductions if r in reductions)
        self.channels = self.channels[: len(self.reductions)]

    def freeze(self) -> None:
        """Keep the transformer as it is from now on."""
        self.frozen = True
        self.model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PlainBody:
        """As every Module's, but a frozen transformer stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def extra_repr(self) -> str:
        """Settings shown in ``print(module)``."""
        return f"{self.name!r}, channels={self.channels}, reductions={self.reductions}, frozen={self.frozen}"
