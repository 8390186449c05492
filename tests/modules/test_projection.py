"""What is known of a block by looking inside it: the affine map that it is, and cheaper ways to compute it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pst
from battery import filled
from pst.modules.projection import fold, pointwise, project
from tensors import assert_close


def block(**changes: object) -> nn.Module:
    """A 1×1 ConvNormAct without activation in eval mode, with attributes replaced, in float64."""
    module = filled(pst.ConvNormAct(6, 4, act=False)).eval().double()
    for name, value in changes.items():
        setattr(module, name, value)
    return module


class FusedConv(nn.Module):
    """A Conv2d with bias alone, as Ultralytics' fuse() leaves a block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(6, 4, 1), nn.Identity()

    def forward(self, x):
        return self.act(self.conv(x))


class NormConv(FusedConv):
    """A block with a step that its name does not give away."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(super().forward(x))


def pointwise_affine(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weight and bias of the one affine map of each pixel that ``module`` is, or None."""
    folded = fold(module)
    return None if folded is None else pointwise(folded)


@pytest.mark.parametrize(
    "module",
    [block(), block(bn=nn.BatchNorm2d(4, affine=False).eval()), FusedConv()],
    ids=["plain", "without scale and shift", "fused"],
)
def test_an_affine_block_equals_its_map(module):
    module = module.double()
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    affine = pointwise_affine(module)
    assert affine is not None
    weight, bias = affine
    assert_close(torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None], module(x))


def test_the_affine_map_is_differentiable():
    module, x = block(), torch.randn(2, 6, 5, 3, dtype=torch.float64)
    parameters = list(module.parameters())
    affine = pointwise_affine(module)
    assert affine is not None
    weight, bias = affine
    outputs = torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None], module(x)
    actual, expected = (torch.autograd.grad(y.square().sum(), parameters) for y in outputs)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


def hooked(attribute: str | None) -> nn.Module:
    module = block()
    target = module if attribute is None else getattr(module, attribute)
    target.register_forward_hook(lambda *_: None)
    return module


NOT_AFFINE = {
    "training": block().train(),
    "activation": block(act=nn.SiLU()),
    "3×3": block(conv=nn.Conv2d(6, 4, 3, padding=1)),
    "padded": block(conv=nn.Conv2d(6, 4, 1, padding=1)),
    "grouped": block(conv=nn.Conv2d(6, 4, 1, groups=2)),
    "strided": block(conv=nn.Conv2d(6, 4, 1, stride=2)),
    "other convolution": block(conv=nn.Conv1d(6, 4, 1)),
    "other norm": block(bn=nn.InstanceNorm2d(4)),
    "batch statistics in eval": block(bn=nn.BatchNorm2d(4, track_running_stats=False).eval()),
    "another child": NormConv(),
    "no convolution": nn.Sequential(nn.Conv2d(6, 4, 1)),
    "hooked": hooked(None),
    "hooked convolution": hooked("conv"),
    "hooked norm": hooked("bn"),
    "parametrised": block(conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 1))),
}


@pytest.mark.parametrize("module", NOT_AFFINE.values(), ids=NOT_AFFINE)
def test_any_other_block_is_called_as_a_whole(module):
    assert pointwise_affine(module) is None


PROJECTIONS = {name: module for name, module in NOT_AFFINE.items() if name != "other convolution"} | {
    "plain": block(),
    "fused": FusedConv().double(),
    "without scale and shift": block(bn=nn.BatchNorm2d(4, affine=False).eval().double()),
    "convolution with bias": block(conv=nn.Conv2d(6, 4, 1)),
    "depthwise": filled(pst.ConvNormAct(6, 6, 7, groups=6, act=False)).eval().double(),
    "circular": block(conv=nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular")),
}


@pytest.mark.parametrize("module", PROJECTIONS.values(), ids=PROJECTIONS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_projection_equals_its_block(module, memory_format):
    module, x = module.double(), torch.randn(2, 6, 9, 7, dtype=torch.float64).contiguous(memory_format=memory_format)
    expected = module(x)
    actual = project(module, x)
    assert_close(actual, expected)
    assert actual.stride() == expected.stride()
    known = fold(module)
    if known is not None:
        assert_close(project(module, x, known), expected)


def test_a_folded_half_block_is_as_exact_as_the_block():
    module = block()
    x = torch.randn(2, 6, 9, 7)
    expected = module(x.double())
    half = module.to(torch.bfloat16)
    folded = project(half, x.bfloat16()).double()
    assert folded.sub(expected).norm() <= 2 * half(x.bfloat16()).double().sub(expected).norm()


def test_the_whole_layer_is_the_same_folded_and_not(monkeypatch):
    layer = filled(pst.PyramidSparseAttention(32, 2, topk=3)).eval().double()
    x, upper = torch.randn(1, 32, 12, 10, dtype=torch.float64), torch.randn(1, 32, 6, 5, dtype=torch.float64)
    outputs = []
    for least in (0, 10**9):
        monkeypatch.setattr("pst.modules.projection.LARGE", least)
        outputs.append(layer(x, upper))
    assert_close(*outputs)


# -------------------------------------------------------------------------------------------------------- hooks, steps


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("attribute", [None, "conv", "bn", "act"])
def test_hooks_of_a_block_are_run(attribute, register):
    module, calls = pst.ConvNormAct(6, 4, act=False).eval(), []
    getattr(module if attribute is None else getattr(module, attribute), register)(lambda *_: calls.append(1))
    project(module, torch.randn(2, 6, 5, 3))
    assert calls == [1]


@pytest.mark.parametrize("training", [False, True])
def test_blocks_in_a_row_are_projected_one_by_one(training):
    row = filled(nn.Sequential(pst.ConvNormAct(6, 8), pst.ConvNormAct(8, 6, act=False))).double().train(training)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    assert_close(project(row, x), row(x))
    calls = []
    row.register_forward_hook(lambda *_: calls.append(1))
    project(row, x)
    assert calls == [1]
