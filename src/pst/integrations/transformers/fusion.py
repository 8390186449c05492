"""PST in the place of a top-down block of a hybrid encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pst.control.layers import find_attention
from pst.integrations.transformers.config import build_layer, chosen_strides, fusion_strides
from pst.integrations.transformers.host import incompatible
from pst.io.layer_settings import restore_settings
from pst.modules import PST
from pst.modules.fine_statistics import FineStatistics, find_norm


class TopDownPST(nn.Module):
    """Takes what the encoder gives the block whose place this is, and returns a map of the same size as that does.

    The encoder enlarges the coarser map twofold, by repetition, and puts it before the finer one: every other row and
    column of the first half of the channels is the coarser map as it was.

    Args:
        pst: The layer.
    """

    def __init__(self, pst: PST) -> None:
        super().__init__()
        self.pst = pst

    def forward(self, fused: Tensor) -> Tensor:
        """(B, 2C, H, W) -> (B, C, H, W), H and W even."""
        coarser, finer = fused.chunk(2, 1)
        return self.pst(finer, coarser[..., ::2, ::2])


def install(model: Any) -> None:
    """Put fresh PST layers in the place of the blocks that the configuration of ``model`` names, set as it says.

    Each takes device, dtype and mode of the block before it; its parameters learn. What is set up here,
    transformers' own initialisation leaves alone.

    Raises:
        ImportError: The encoder is not the one that pst was written for.
        TypeError: The configuration has levels of another type.
        ValueError: The configuration describes no such layers, or settings of others.
    """
    config = model.config
    blocks = getattr(model.model.encoder, "fpn_blocks", None)
    strides = fusion_strides(config)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) != len(strides):
        raise incompatible(f"{type(model).__name__}'s encoder has no {len(strides)} fpn_blocks")
    config.pst_levels = chosen_strides(config, config.pst_levels)
    for i, stride in enumerate(strides):
        if stride in config.pst_levels:
            like = next(blocks[i].parameters())
            fused = TopDownPST(build_layer(config)).to(like.device, like.dtype).train(blocks[i].training)
            for module in fused.modules():
                module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]  # transformers' own mark
            blocks[i] = fused
    _restore(model)


def _restore(model: Any) -> None:
    config = model.config
    restore_settings(model, {} if config.pst_settings is None else config.pst_settings, "the configuration")
    layers, calibrated = find_attention(model), config.pst_calibrated
    if not isinstance(calibrated, (list, tuple, type(None))):
        raise TypeError(f"pst_calibrated must be a list of names of layers, got {calibrated!r:.80}")
    for name in () if calibrated is None else calibrated:
        found = find_norm(layers[name].kv) if isinstance(name, str) and name in layers else None
        if found is None:
            raise ValueError(f"pst_calibrated names {name!r:.80}, which is not a layer of the model: leave it out")
        layers[name].fine_statistics = FineStatistics(found[1])


def fused_blocks(model: Any) -> dict[str, TopDownPST]:
    """The blocks of `install` by their names in ``model``."""
    return {name: m for name, m in model.named_modules() if isinstance(m, TopDownPST)}


@torch.no_grad()
def start_fresh(model: Any, lacking: set[str]) -> list[str]:
    """Give entries of PST layers that a checkpoint lacks the values that PST itself starts with.

    Args:
        model: Changed in place.
        lacking: Names of the entries; those of no PST layer are passed over.

    Returns:
        The names of the blocks that are fresh as a whole, and of the other entries.

    Raises:
        ValueError: Fine statistics are lacking.
    """
    said: list[str] = []
    for prefix, block in fused_blocks(model).items():
        own = block.state_dict()
        names = [name for name in own if f"{prefix}.{name}" in lacking]
        if not names:
            continue
        values = TopDownPST(build_layer(model.config)).state_dict()
        if measured := [name for name in names if name not in values]:
            raise ValueError(f"the weights lack {prefix}.{measured[0]}, which pst_calibrated says they have")
        for name in names:
            own[name].copy_(values[name])
        said += [prefix] if len(names) == len(own) else [f"{prefix}.{name}" for name in names]
    return said
