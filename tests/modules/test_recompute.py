"""Blocks that keep nothing but their input in training: the same numbers as the plain ones, for less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pst
from battery import filled, total
from pst.modules import projection
from pst.modules.projection import project
from pst.modules.recompute import conv_norm_act
from tensors import assert_close

BLOCKS = {
    "pointwise": {"in_channels": 6, "out_channels": 4},
    "linear": {"in_channels": 4, "out_channels": 6, "act": False},
    "depthwise": {"in_channels": 6, "out_channels": 6, "kernel_size": 5, "groups": 6},
}
FORMATS = (torch.contiguous_format, torch.channels_last)


def block(name: str) -> pst.ConvNormAct:
    return filled(pst.ConvNormAct(**BLOCKS[name])).double().train()


def maps(module: pst.ConvNormAct, memory_format: torch.memory_format = torch.channels_last) -> torch.Tensor:
    x = 2 + 3 * torch.randn(2, module.conv.in_channels, 5, 7, dtype=torch.float64)
    return x.to(memory_format=memory_format).requires_grad_()


def gradients(outputs: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(total(outputs), inputs, retain_graph=True)


@pytest.fixture
def always(monkeypatch):
    """Recompute, however small the map."""
    monkeypatch.setattr(projection, "RECOMPUTED", 0)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_gradients_and_statistics_are_those_of_the_block(name, memory_format):
    module = block(name)
    plain, x = copy.deepcopy(module), maps(module, memory_format)
    silu = isinstance(module.act, nn.SiLU)
    actual = conv_norm_act(x, module.conv, module.bn, silu=silu)  # pyright: ignore[reportArgumentType] a BatchNorm
    expected = plain(x)
    assert type(actual.grad_fn).__name__ == "_ConvNormActBackward"
    assert_close(actual, expected)
    assert actual.stride() == expected.stride()
    for a, e in zip(
        gradients(actual, x, *module.parameters()), gradients(expected, x, *plain.parameters()), strict=True
    ):
        assert_close(a, e)
    for a, e in zip(module.buffers(), plain.buffers(), strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_are_those_of_finite_differences(name):
    module = block(name)
    silu = isinstance(module.act, nn.SiLU)

    def function(x, *_):
        return conv_norm_act(x, module.conv, module.bn, silu=silu)  # pyright: ignore[reportArgumentType] a BatchNorm

    assert torch.autograd.gradcheck(function, (maps(module), *module.parameters()))


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_larger_than_the_input_is_kept(name, always):
    module, kept = block(name), []
    x = maps(module)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        project(module, x)
    large = [t for t in kept if t.numel() >= 35]
    assert [t.data_ptr() for t in large if t.ndim == 4 and t.shape[0] == 2] == [x.data_ptr()]
    assert sum(t.numel() for t in kept) < x.numel() + 300  # weights and statistics of each channel


def test_backward_may_run_again(always):
    module = block("pointwise")
    x = maps(module)
    y = project(module, x)
    for first, second in zip(gradients(y, x, *module.parameters()), gradients(y, x, *module.parameters()), strict=True):
        assert torch.equal(first, second)


def test_frozen_weights_get_no_gradient(always):
    module = block("pointwise")
    module.conv.weight.requires_grad_(False)
    x = maps(module)
    project(module, x).sum().backward()
    assert module.conv.weight.grad is None
    assert x.grad is not None


def without_momentum(module):
    module.bn.momentum = None


def without_running_statistics(module):
    module.bn = nn.BatchNorm2d(4, track_running_stats=False).double()


def without_scale(module):
    module.bn = nn.BatchNorm2d(4, affine=False).double()


def with_bias(module):
    module.conv = nn.Conv2d(6, 4, 1).double()


def with_a_hook(module):
    module.conv.register_forward_hook(lambda *_: None)


CHANGES = (without_momentum, without_running_statistics, without_scale, with_bias, with_a_hook)


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_block_is_run_step_by_step(change, always):
    module = block("pointwise")
    change(module)
    plain, x = copy.deepcopy(module), maps(module)
    actual = project(module, x)
    assert type(actual.grad_fn).__name__ != "_ConvNormActBackward"
    assert_close(actual, plain(x))
    for a, e in zip(module.buffers(), plain.buffers(), strict=True):
        assert_close(a, e)


def test_a_map_in_nchw_is_run_step_by_step(always):
    module = block("pointwise")
    x = maps(module, torch.contiguous_format)
    assert type(project(module, x).grad_fn).__name__ != "_ConvNormActBackward"


def test_a_block_is_recomputed_where_it_should_be(always):
    module = block("pointwise")
    x = maps(module)
    assert type(project(module, x).grad_fn).__name__ == "_ConvNormActBackward"
    with torch.no_grad():
        plain = copy.deepcopy(module)
        assert_close(project(module, x), plain(x))


def test_autocast_and_low_precision_are_run_step_by_step(always):
    module = block("pointwise").float()
    x = maps(module).detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert type(project(module, x).grad_fn).__name__ != "_ConvNormActBackward"
    assert type(project(module.bfloat16(), x.bfloat16()).grad_fn).__name__ != "_ConvNormActBackward"


@pytest.mark.parametrize("settings", [{"topk": 0}, {"topk": 4}, {"topk": 4, "fusion": "refine"}], ids=str)
def test_a_whole_layer_trains_alike(settings, monkeypatch):
    plain = filled(pst.PST(8, 12, 32, head_dim=8, **settings)).double().train()
    sizes = (2, 8, 12, 10), (2, 12, 6, 5)
    inputs = [torch.randn(s, dtype=torch.float64).to(memory_format=torch.channels_last) for s in sizes]
    runs = []
    for least in (0, 10**9):
        monkeypatch.setattr(projection, "RECOMPUTED", least)
        layer = copy.deepcopy(plain)
        leaves = [t.clone().requires_grad_() for t in inputs]
        y = layer(*leaves)
        runs.append([y, *torch.autograd.grad(total(y), [*leaves, *layer.parameters()]), *layer.buffers()])
    for a, e in zip(*runs, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12)  # some gradients are zero: BatchNorm forgets an offset
