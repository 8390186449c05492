"""Which features a run matches frames by: named, for a run says what it was made with; built when first needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pst.io.device import check_cuda
from pst.io.files import check_file, first_line
from pst.propagate.features import DEFAULT, BackboneFeatures, Features

_BLOCK = 2**20


@dataclass(frozen=True)
class Network:
    """Features by name, or a callable.

    Attributes:
        features: timm's name of a network, or what `pst.propagate.Features` describes; for several processes one that
            can be pickled.
        weights: File of the network's weights, see `BackboneFeatures`.
        device: Where to compute.

    Raises:
        ValueError: There is no such device.
    """

    features: str | Features = DEFAULT
    weights: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_cuda(self.device)
        try:
            torch.zeros(1, device=self.device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"device {self.device!r} cannot be used here: {first_line(error)}: use cpu") from error

    def describe(self) -> dict[str, Any]:
        """What makes a difference to the result, for JSON.

        Raises:
            FileNotFoundError: There is no such file of weights.
        """
        name = self.features if isinstance(self.features, str) else _qualified(self.features)
        weights = None if self.weights is None else digest(self.weights)
        return {"features": name, "weights": weights, "device": str(torch.device(self.device))}

    def build(self) -> Features:
        """The features, on the device; those built last are built once.

        Raises:
            ImportError: A package is missing.
            OSError: The weights cannot be read.
            ValueError: There is no such network, or the weights are another one's.
        """
        if not isinstance(self.features, str):
            return self.features
        return _built(self.features, self.weights, self.device)


@lru_cache(maxsize=1)
def _built(name: str, weights: Path | None, device: str) -> Features:
    return BackboneFeatures(name, weights=weights).to(device)


def _qualified(features: object) -> str:
    named = features if hasattr(features, "__qualname__") else type(features)
    return f"{named.__module__}.{named.__qualname__}"  # pyright: ignore[reportAttributeAccessIssue]


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        FileNotFoundError: There is no such file.
    """
    check_file(path, "weights")
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
