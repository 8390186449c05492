"""Published detectors of transformers, and parameters and operations with PST and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

from pst.integrations.transformers.add import add_pst
from pst.integrations.transformers.host import unchecked
from pst.profile.flops import ModelSize, model_size

_CLASSES = 80


def _resnet(depth: int) -> dict[str, Any]:
    """What the RT-DETRs of a backbone have in common; the library's defaults are those of depth 50."""
    if depth == 50:
        return {"num_labels": _CLASSES}
    sizes: dict[str, Any] = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    backbone = RTDetrResNetConfig(**sizes, **_from_stage(2))
    small = {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 3}
    return {"num_labels": _CLASSES, "backbone_config": backbone, **small}


_HGNET: dict[str, dict[str, Any]] = {
    "B0": {
        "stem_channels": [3, 16, 16],
        "stage_in_channels": [16, 64, 256, 512],
        "stage_mid_channels": [16, 32, 64, 128],
        "stage_out_channels": [64, 256, 512, 1024],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_numb_of_layers": [3, 3, 3, 3],
        "use_learnable_affine_block": True,
    },
    "B2": {
        "stem_channels": [3, 24, 32],
        "stage_in_channels": [32, 96, 384, 768],
        "stage_mid_channels": [32, 64, 128, 256],
        "stage_out_channels": [96, 384, 768, 1536],
        "stage_num_blocks": [1, 1, 3, 1],
        "stage_numb_of_layers": [4, 4, 4, 4],
        "use_learnable_affine_block": True,
    },
    "B4": {
        "stem_channels": [3, 32, 48],
        "stage_in_channels": [48, 128, 512, 1024],
        "stage_mid_channels": [48, 96, 192, 384],
        "stage_out_channels": [128, 512, 1024, 2048],
        "stage_num_blocks": [1, 1, 3, 1],
        "stage_numb_of_layers": [6, 6, 6, 6],
        "use_learnable_affine_block": False,
    },
}


def _dfine(backbone: str, levels: int = 3, **own: Any) -> DFineConfig:
    sizes = _HGNET[backbone]
    channels = sizes["stage_out_channels"]
    body = HGNetV2Config(
        **sizes,
        hidden_sizes=channels,
        depths=sizes["stage_numb_of_layers"],
        embedding_size=sizes["stem_channels"][-1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        **_from_stage(5 - levels),
    )
    known: dict[str, Any] = {"num_labels": _CLASSES, "encoder_in_channels": channels[-levels:]}
    return DFineConfig(backbone_config=body, **known, **own)


def _from_stage(first: int) -> dict[str, Any]:
    """The backbone's maps from a stage on, of four."""
    return {"out_features": [f"stage{i}" for i in range(first, 5)]}


_POINTS: dict[str, Any] = {"decoder_n_points": [3, 6, 3]}
_NANO: dict[str, Any] = {
    "feat_strides": [16, 32],
    "encode_proj_layers": [1],
    "encoder_hidden_dim": 128,
    "encoder_ffn_dim": 512,
    "hidden_expansion": 0.34,
    "depth_mult": 0.5,
    "d_model": 128,
    "decoder_in_channels": [128, 128],
    "decoder_ffn_dim": 512,
    "decoder_layers": 3,
    "decoder_n_points": [6, 6],
    "num_feature_levels": 2,
}

PUBLISHED: Mapping[str, tuple[Any, Callable[[], Any]]] = {
    "rtdetr_r18vd": (RTDetrForObjectDetection, lambda: RTDetrConfig(**_resnet(18))),
    "rtdetr_r50vd": (RTDetrForObjectDetection, lambda: RTDetrConfig(**_resnet(50))),
    "rtdetr_v2_r18vd": (RTDetrV2ForObjectDetection, lambda: RTDetrV2Config(**_resnet(18))),
    "rtdetr_v2_r50vd": (RTDetrV2ForObjectDetection, lambda: RTDetrV2Config(**_resnet(50))),
    "dfine-nano": (DFineForObjectDetection, lambda: _dfine("B0", 2, **_NANO)),
    "dfine-small": (
        DFineForObjectDetection,
        lambda: _dfine("B0", hidden_expansion=0.5, depth_mult=0.34, decoder_layers=3, **_POINTS),
    ),
    "dfine-medium": (DFineForObjectDetection, lambda: _dfine("B2", depth_mult=0.67, decoder_layers=4, **_POINTS)),
    "dfine-large": (DFineForObjectDetection, lambda: _dfine("B4", **_POINTS)),
}

USUAL = tuple(PUBLISHED)


def measure(name: str, image_size: tuple[int, int] = (640, 640), **options: Any) -> ModelSize:
    """Build a published detector without weights and count; nothing is computed.

    Args:
        name: Of `PUBLISHED`, with "pst_" before it for the one with PST.
        image_size: (height, width) in pixels, with more positions than the decoder has queries: 320 × 320 is enough.
        options: Passed to `add_pst`.

    Raises:
        ValueError: There is no such model, or it has no such option.
    """
    plain = name.removeprefix("pst_")
    if plain not in PUBLISHED:
        raise ValueError(f"no sizes of {name!r} are known: choose among {', '.join(PUBLISHED)}")
    kind, config = PUBLISHED[plain]
    with torch.device("meta"):
        model: Any = kind(config()).eval()
    if plain != name:
        model = add_pst(model, **options)
    image = torch.empty(1, 3, *image_size, device="meta")
    with unchecked():
        return model_size(name, model, image)
