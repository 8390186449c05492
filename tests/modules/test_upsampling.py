"""DySample: bilinear where it begins, any size, and what an offset does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from messages import says
from pst.modules import DySample
from pst.modules.upsampling import build_upsampling, resize
from tensors import assert_close

SIZES = (((4, 6), (8, 12)), ((3, 5), (7, 9)), ((5, 4), (5, 4)), ((2, 3), (9, 4)), ((1, 1), (3, 2)), ((7, 5), (8, 40)))


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_it_begins_as_bilinear_resizing(small, large):
    x = torch.randn(2, 8, *small, dtype=torch.float64)
    assert_close(DySample(8).double()(x, large), bilinear(x, large))


def test_an_offset_moves_the_point_by_a_quarter_of_it():
    module, x = DySample(8).double(), torch.randn(1, 8, 6, 7, dtype=torch.float64)
    bias: Any = module.offset.bias
    with torch.no_grad():  # by group, then column and row, then the points: one position to the right in the last group
        bias.view(4, 2, 4)[3, 0] = 4.0
    out = module(x, (6, 7))
    assert_close(out[:, :6], x[:, :6])
    assert_close(out[:, 6:, :, :-1], x[:, 6:, :, 1:])
    assert_close(out[:, 6:, :, -1], x[:, 6:, :, -1])  # the border stands for what lies outside
    with torch.no_grad():
        bias.zero_().view(4, 2, 4)[0, 1] = -4.0  # one position up in the first group
    out = module(x, (6, 7))
    assert_close(out[:, 2:], x[:, 2:])
    assert_close(out[:, :2, 1:], x[:, :2, :-1])


def test_each_of_the_points_of_a_position_has_an_offset_of_its_own():
    module, x = DySample(4).double(), torch.arange(4, dtype=torch.float64).expand(1, 4, 4, 4)
    with torch.no_grad():
        module.offset.bias.view(4, 2, 2, 2)[:, 0, :, 1] = 2.0  # pyright: ignore[reportOptionalMemberAccess]
    moved = module(x, (8, 8)) - bilinear(x, (8, 8))
    assert_close(moved[..., ::2], torch.zeros_like(moved[..., ::2]))
    assert_close(moved[..., 1:-3:2], torch.full_like(moved[..., 1:-3:2], 0.5))


def test_offsets_depend_on_the_content_and_learn():
    module, x = DySample(8), torch.randn(2, 8, 5, 6, requires_grad=True)
    (module(x, (9, 11)) * torch.randn(9, 11)).sum().backward()
    for p in module.parameters():
        assert p.grad is not None
        assert bool((p.grad != 0).any())
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_points_are_exact_in_16_bits(dtype):
    x = torch.randn(1, 8, 40, 200)
    assert_close(DySample(8).to(dtype)(x.to(dtype), (80, 400)).float(), bilinear(x.to(dtype).float(), (80, 400)), 1e-2)


def test_memory_format_is_kept():
    x = torch.randn(2, 8, 5, 6).to(memory_format=torch.channels_last)
    assert DySample(8)(x, (9, 12)).is_contiguous(memory_format=torch.channels_last)
    assert DySample(8)(x.contiguous(), (9, 12)).is_contiguous()


def test_exported_it_takes_other_sizes():
    class Resized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.upsampling = DySample(8)

        def forward(self, x: Tensor, like: Tensor) -> Tensor:
            return resize(self.upsampling, x, (like.shape[2], like.shape[3]))

    module, dim = Resized(), torch.export.Dim
    nn.init.normal_(module.upsampling.offset.weight)
    shapes = ({2: dim("h"), 3: dim("w")}, {2: dim("H"), 3: dim("W")})
    example = torch.randn(1, 8, 4, 5), torch.randn(1, 1, 8, 10)
    program = torch.export.export(module, example, dynamic_shapes=shapes).module()
    other = torch.randn(1, 8, 7, 3), torch.randn(1, 1, 15, 11)
    assert_close(program(*other), module(*other))


def test_names_and_widths_that_do_not_fit_are_refused():
    assert build_upsampling("bilinear", 7) is None
    with pytest.raises(ValueError, match=says("bilinear … dysample … nearest")):
        build_upsampling("nearest", 8)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=says("multiple of 4 … 6")):
        build_upsampling("dysample", 6)
