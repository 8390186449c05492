"""Random shapes, rules and settings in 16 bits: the implementations select alike and agree within rounding."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pst.functional.selection import Selected, Tokens
from tensors import Attention

TOLERANCE = {torch.float16: 0.01, torch.bfloat16: 0.08}  # of the largest value: ten roundings


@dataclass(frozen=True)
class Fixed:
    """A rule that has made up its mind."""

    selected: Tensor
    grid: tuple[int, int] | None

    def select(self, tokens: Tokens) -> Selected:
        return Selected(self.selected.clamp_min(0), self.selected >= 0, self.grid)


def draw(seed: int, dtype: torch.dtype) -> Attention:
    r = random.Random(seed)
    coarse = r.randint(1, 6), r.randint(1, 6)
    fine = coarse[0] + r.randint(0, 2 * coarse[0]), coarse[1] + r.randint(0, 2 * coarse[1])
    return Attention.random(
        fine, coarse, batch=r.randint(0, 2), heads=r.randint(1, 3), width=r.choice([1, 3, 4, 8, 16]), dtype=dtype,
        magnitude=r.choice([0.1, 1.0, 3.0, 10.0]), topk=r.choice([0, 1, 2, 5, 100]),
        selection=r.choice(["mean", "mass", "nucleus", "random", "window"]),
        fusion=r.choice(["gate", "refine"]),
    )  # fmt: skip


def scores(a: Attention) -> tuple[Tensor, tuple[int, int] | None]:
    """What the rule ranks in float64, (B, h, G, M), and the blocks of queries."""
    size = a.query.shape[2:4]
    query, key = (t.double().flatten(2, 3) for t in (a.query, a.key))
    logits = query @ key.mT * a.query.shape[-1] ** -0.5
    if a.options["selection"] == "mass":
        return logits.softmax(-1).mean(2, keepdim=True), None
    if a.options["selection"] != "window":
        return logits.mean(2, keepdim=True), None
    grid = min(4, size[0]), min(4, size[1])
    y, x = (torch.arange(n) * g // n for n, g in zip(size, grid, strict=True))
    block = (y[:, None] * grid[1] + x).flatten()
    return torch.stack([logits[:, :, block == i].mean(2) for i in range(grid[0] * grid[1])], 2), grid


def check_selection(a: Attention, index: Tensor) -> tuple[int, int] | None:
    """The best scores, best first, but for what float32 cannot tell apart; the blocks of queries."""
    ranks, grid = scores(a)
    if a.options["selection"] == "random":
        return None
    index = index if grid is not None else index[:, :, None]
    picked = ranks.gather(-1, index.clamp_min(0)).masked_fill(index < 0, -torch.inf)  # "nucleus" leaves the last out
    noise = (2e-4 * ranks.abs() if a.options["selection"] == "mass" else torch.full_like(ranks, 1e-5)).amax(-1)
    assert (picked[..., 1:] <= picked[..., :-1] + noise[..., None]).all()
    rest = ranks.scatter(-1, index.clamp_min(0), -torch.inf).amax(-1)
    full = (index >= 0).all(-1)
    assert (picked[..., -1] >= rest - noise)[full].all()
    return grid


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("start", range(0, 200, 50))
def test_16_bits_agree_with_the_reference(start, dtype):
    for seed in range(start, start + 50):
        torch.manual_seed(seed)
        a = draw(seed, dtype)
        seen: list[Tensor] = []
        actual = a(observer=seen.append)
        assert actual.shape == a.query.shape
        if actual.numel() == 0:
            continue
        options: dict[str, Any] = {}
        if seen:
            options = {"selection": Fixed(seen[0], check_selection(a, seen[0]))}
        expected = a(impl="reference", **options)
        error = (actual.double() - expected.double()).abs().max() / (1e-3 + expected.double().abs().max())
        assert error < TOLERANCE[dtype], (seed, a.options, a.query.shape, a.key.shape)


def test_the_reference_selects_in_float32():
    """Near ties that 16 bits round away decide the same everywhere."""
    for seed in range(100):
        torch.manual_seed(seed)
        a = Attention.random((12, 5), (4, 5), width=8, dtype=torch.bfloat16, magnitude=3, topk=3, selection="window")
        seen: list[Tensor] = []
        a(observer=seen.append)
        a(observer=seen.append, impl="reference")
        for index in seen:
            check_selection(a, index)
