"""BatchNorm folded on request: the same numbers, and nothing folded that counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import pst
from battery import filled
from tensors import assert_close


def layer(**settings: Any) -> Any:
    return filled(pst.PST(8, 12, 32, head_dim=8, **settings)).eval().double()


def maps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 8, 9, 8, dtype=dtype), torch.randn(2, 12, 4, 4, dtype=dtype)


def norms(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("settings", [{}, {"topk": 3}, {"topk": 3, "fusion": "refine", "depth": 2}], ids=str)
def test_a_fused_layer_gives_the_same_without_a_norm(settings):
    model, inputs = layer(**settings), maps()
    expected = model(*inputs)
    assert pst.fuse(model) is model
    assert norms(model) == []
    assert_close(model(*inputs), expected, 1e-11)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    pst.fuse(model)  # once more: nothing is left to do
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_any_model_with_layers_inside_and_shared_weights():
    pyramid = filled(pst.PSTPyramid([8, 12, 16], 32, head_dim=16, share="attention", bottom_up=True)).eval().double()
    inputs = [torch.randn(1, c, s, s, dtype=torch.float64) for c, s in ((8, 12), (12, 6), (16, 3))]
    expected = pyramid(inputs)
    pst.fuse(pyramid)
    assert norms(pyramid) == []
    for actual, e in zip(pyramid(inputs), expected, strict=True):
        assert_close(actual, e, 1e-11)


def test_a_half_model_is_folded_as_exactly_as_it_runs():
    model, inputs = layer(), maps()
    expected = model(*inputs)
    half = model.to(torch.bfloat16)
    small = tuple(t.bfloat16() for t in inputs)
    plain = (half(*small).double() - expected).norm()
    folded = (pst.fuse(half)(*small).double() - expected).norm()
    assert next(half.parameters()).dtype == torch.bfloat16
    assert folded <= 1.5 * plain


def own_forward(block: Any) -> None:
    class Own(pst.ConvNormAct):
        def forward(self, x):
            return 2 * super().forward(x)

    block.__class__ = Own


def patched(block: Any) -> None:
    forward = block.forward
    block.forward = lambda x: 2 * forward(x)


def patched_conv(block: Any) -> None:
    patched(block.conv)


def hooked_norm(block: Any) -> None:
    block.bn.register_forward_hook(lambda _, __, out: 2 * out)


def hooked_conv(block: Any) -> None:
    block.conv.register_forward_pre_hook(lambda _, args: (2 * args[0],))


def pruned(block: Any) -> None:
    prune.l1_unstructured(block.conv, "weight", 0.5)


def parametrised(block: Any) -> None:
    parametrizations.weight_norm(block.conv)


def adapted(block: Any) -> None:
    block.conv = nn.Sequential(block.conv, nn.AvgPool2d(3, 1, 1))


def other_norm(block: Any) -> None:
    block.bn = nn.GroupNorm(2, block.conv.out_channels).double().eval()


def batch_statistics(block: Any) -> None:
    block.bn = nn.BatchNorm2d(block.conv.out_channels, track_running_stats=False).double().eval()


KEPT = (own_forward, patched, patched_conv, hooked_norm, hooked_conv, pruned, parametrised, adapted, other_norm,
        batch_statistics)  # fmt: skip


@pytest.mark.parametrize("change", KEPT)
def test_what_cannot_be_folded_stays_as_it_is(change):
    model, inputs = layer(topk=3), maps()
    change(model.blocks[0].attn.kv)
    expected = model(*inputs)
    kept = model.blocks[0].attn.kv.bn
    pst.fuse(model)
    assert model.blocks[0].attn.kv.bn is kept
    assert isinstance(model.reduce.bn, nn.Identity)
    assert_close(model(*inputs), expected, 1e-11)


@pytest.mark.parametrize("fusion", ["gate", "refine"])
def test_a_calibrated_projection_keeps_its_two_sets_of_statistics(fusion):
    model, inputs = layer(topk=3, fusion=fusion), maps()
    pst.calibrate(model, [maps()])
    expected = model(*inputs)
    pst.fuse(model)
    assert norms(model) == ["blocks.0.attn.kv.bn"]
    assert_close(model(*inputs), expected, 1e-11)
    assert_close(copy.deepcopy(model)(*inputs), expected, 1e-11)


def test_a_model_in_training_is_refused_and_left_alone():
    model = layer()
    model.blocks[0].mlp.train()
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.0 is in training mode: call model\.eval\(\) first"):
        pst.fuse(model)
    assert len(norms(model)) == 9


def test_models_without_our_blocks_are_refused():
    with pytest.raises(ValueError, match=r"Linear holds no pst\.ConvNormAct to fuse"):
        pst.fuse(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="expected a torch Module, got int"):
        pst.fuse(3)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def test_a_convolution_in_training_mode_is_folded_like_any():
    block: Any = filled(pst.ConvNormAct(8, 8)).eval()
    block.conv.train()
    x = torch.randn(1, 8, 4, 4)
    expected = block(x)
    assert_close(pst.fuse(block)(x), expected, 1e-5)
    assert not block.conv.training
