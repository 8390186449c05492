"""Parameters and operations of LibreYOLO's detectors, with PST and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from libreyolo.models.yolo9.nn import YOLO9_CONFIGS, LibreYOLO9Model
from libreyolo.models.yolo9_p2.nn import YOLO9_P2_CONFIGS, LibreYOLO9P2Model

from pst.integrations.libreyolo.description import Description
from pst.integrations.libreyolo.neck import places, put_pst
from pst.profile.flops import ModelSize, model_size

PUBLISHED: Mapping[str, tuple[Any, str, Mapping[str, Any]]] = {
    **{f"yolo9-{size}": (LibreYOLO9Model, size, config) for size, config in YOLO9_CONFIGS.items()},
    **{f"yolo9-p2-{size}": (LibreYOLO9P2Model, size, config) for size, config in YOLO9_P2_CONFIGS.items()},
}

USUAL = tuple(PUBLISHED)


def measure(name: str, image_size: tuple[int, int] = (640, 640), **options: Any) -> ModelSize:
    """Build a detector of 80 classes with random weights and count; no image is computed.

    Args:
        name: Of `PUBLISHED`, with "pst_" before it for the one with PST.
        image_size: (height, width) in pixels, multiples of 32.
        options: Passed to PST, as those of `add_pst`.

    Raises:
        ValueError: There is no such detector.
    """
    plain = name.removeprefix("pst_")
    if plain not in PUBLISHED:
        raise ValueError(f"no sizes of {name!r} are known: choose among {', '.join(PUBLISHED)}")
    kind, size, config = PUBLISHED[plain]
    network = kind(config=size).eval().to("meta")
    if plain != name:
        found = places(config)
        put_pst(network.neck, found, Description(tuple(found), options))
    return model_size(name, network, torch.empty(1, 3, *image_size, device="meta"))
