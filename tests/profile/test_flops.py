"""Operations by hand: convolutions, both products of attention, exponentials, the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pst
from pst.profile.flops import Work, count_flops, count_work


class Attend(nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, key)


class Sum(nn.Module):
    """Takes what torchvision's detectors take: a list of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.conv(image[None]).sum() for image in images]).sum()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_both_products_of_attention_are_counted(device: str) -> None:
    query, key = torch.randn(1, 2, 100, 32, device=device), torch.randn(1, 2, 25, 32, device=device)
    products = 2 * 2 * 2 * 100 * 25 * 32
    assert count_work(Attend(), (query, key)) == Work(products, exponentials=2 * 100 * 25)
    if device == "cpu":
        assert count_flops(Attend(), query, key) == products


def test_a_model_is_counted_on_any_device_with_lists_for_inputs_and_left_as_it_is() -> None:
    images = [torch.zeros(3, 10, 10), torch.zeros(3, 5, 4)]
    model = Sum().train()
    before = copy.deepcopy(model.state_dict())
    expected = 2 * 3 * 8 * (10 * 10 + 5 * 4)
    assert count_flops(model, images) == expected
    assert count_flops(copy.deepcopy(model).to("meta"), images) == expected
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_of_batch_norms_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).train()
    count_flops(model, torch.ones(2, 3, 4, 4))
    assert int(model.get_buffer("1.num_batches_tracked")) == 0


def test_k_costs_what_it_selects() -> None:
    layer, maps = pst.PST(16, 16, 64), (torch.zeros(1, 16, 8, 8), torch.zeros(1, 16, 4, 4))
    counts = []
    for k in (0, 2, 4):
        pst.set_topk(layer, k)
        counts.append(count_flops(layer, *maps))
    assert counts[0] < counts[1]
    assert counts[2] - counts[1] == 2 * 2 * 64 * (2 * 4) * 32  # two tokens more, of four children each, two products


def test_work_counts_convolutions_activations_and_the_backward_pass() -> None:
    x = torch.randn(1, 8, 4, 4)
    forward = 2 * 16 * 8 * 12
    assert count_work(nn.Sequential(nn.Conv2d(8, 12, 1), nn.SiLU()), (x,)) == Work(forward, 16 * 12)
    assert count_work(nn.Conv2d(8, 12, 1), (x,), train=True).flops == 3 * forward  # of the input and of the weight


def test_work_of_a_module_without_values() -> None:
    module, x = nn.Sequential(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.SiLU()).eval(), torch.randn(1, 8, 4, 4)
    assert count_work(copy.deepcopy(module).to("meta"), (x,)) == count_work(module, (x,)) == Work(2 * 16 * 96, 16 * 12)
