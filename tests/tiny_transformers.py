"""Detectors of transformers, tiny and random, and images with boxes for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
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

HOSTS: dict[str, tuple[Any, Any]] = {
    "rt_detr": (RTDetrForObjectDetection, RTDetrConfig),
    "rt_detr_v2": (RTDetrV2ForObjectDetection, RTDetrV2Config),
    "d_fine": (DFineForObjectDetection, DFineConfig),
}
WIDTH = 64
STAGES: dict[str, Any] = {"out_features": ["stage2", "stage3", "stage4"]}


def host_config(name: str, **options: Any) -> Any:
    """Of a detector with strides 8, 16 and 32."""
    sizes = {
        "encoder_in_channels": [16, 24, 32],
        "encoder_hidden_dim": WIDTH,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 2,
        "d_model": 64,
        "decoder_in_channels": [WIDTH] * 3,
        "decoder_ffn_dim": 64,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "num_queries": 10,
        "num_denoising": 4,
        "num_labels": 3,
        "hidden_expansion": 0.5,
    }
    if name == "d_fine":
        return DFineConfig(backbone_config=_hgnet(), depth_mult=0.34, **{**sizes, **options})
    return HOSTS[name][1](backbone_config=_resnet(), **{**sizes, **options})


def host_model(name: str, seed: int = 0, **options: Any) -> Any:
    """In eval mode, with weights that are far from zero, so that every part changes what comes out."""
    torch.manual_seed(seed)
    model = HOSTS[name][0](host_config(name, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(torch.rand_like(parameter) * 0.5)
    return model


def images(batch: int = 2, size: tuple[int, int] = (64, 96), seed: int = 1) -> Tensor:
    """(batch, 3, *size)."""
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def labels(batch: int = 2) -> list[dict[str, Tensor]]:
    """One box an image, as transformers wants them: centre, width and height in 0…1."""
    boxes = [[0.3 + 0.1 * i, 0.4, 0.3, 0.25] for i in range(batch)]
    return [{"class_labels": torch.tensor([i % 3]), "boxes": torch.tensor([box])} for i, box in enumerate(boxes)]


def _hgnet() -> HGNetV2Config:
    return HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 24],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 24, 32],
        stage_num_blocks=[1] * 4,
        stage_downsample=[False, True, True, True],
        stage_light_block=[False] * 4,
        stage_kernel_size=[3] * 4,
        stage_numb_of_layers=[1] * 4,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1] * 4,
        embedding_size=8,
        **STAGES,
    )


def _resnet() -> RTDetrResNetConfig:
    return RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1] * 4,
        layer_type="basic",
        **STAGES,
    )
