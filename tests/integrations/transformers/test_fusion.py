"""The module in the place of a top-down block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pst
from messages import says
from pst.integrations.transformers import add_pst
from pst.integrations.transformers.fusion import TopDownPST, install
from tiny_transformers import host_model, images


@pytest.mark.parametrize("size", [(6, 8), (2, 2), (10, 4)])
def test_the_coarser_map_is_taken_back_exactly(size):
    layer = pst.PST(32, 32, 64, topk=2).eval()
    coarser, finer = torch.randn(2, 32, size[0] // 2, size[1] // 2), torch.randn(2, 32, *size)
    fused = torch.cat([F.interpolate(coarser, scale_factor=2.0, mode="nearest"), finer], 1)
    assert torch.equal(TopDownPST(layer)(fused), layer(finer, coarser))


def test_hosts_give_the_block_the_two_maps_that_it_takes():
    """The coarser map is the lateral convolution's output, the finer one the backbone's, projected."""
    fused = add_pst(host_model("rt_detr"))
    encoder, seen = fused.model.encoder, {}
    encoder.lateral_convs[0].register_forward_hook(lambda m, args, out: seen.update(coarser=out))
    encoder.fpn_blocks[0].pst.register_forward_hook(lambda m, args, out: seen.update(args=args, out=out))
    projection = fused.model.encoder_input_proj[1]
    projection.register_forward_hook(lambda m, args, out: seen.update(finer=out))
    fused(images())
    assert torch.equal(seen["args"][0], seen["finer"])
    assert torch.equal(seen["args"][1], seen["coarser"])
    assert seen["out"].shape == seen["finer"].shape == (2, 64, 4, 6)


def test_another_encoder_is_said_with_the_versions():
    model = add_pst(host_model("d_fine"))
    model.model.encoder.fpn_blocks = nn.ModuleList([nn.Identity()])
    with pytest.raises(ImportError, match=says("transformers … 5.4 … < 6 … fpn_blocks")):
        install(model)
