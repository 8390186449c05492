"""The second task: labels again, with a projection and a scale that are trained on CamVid's training part.

The network stays frozen. `Matcher` projects its features to 64 channels; attention is the same op as everywhere, on
unit-length queries and keys, with coarse keys and values the means of their children.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lab.two_maps import frames
from lab.two_maps.attend import attend, everything
from lab.two_maps.frames import CLASSES, Pair
from lab.two_maps.labels import one_hot
from lab.two_maps.rows import GRID, ROWS, Row
from pst.functional.selection import Window

WIDTH = 64
STEPS = 250
RATE = 2e-3
SEEDS = (0, 1, 2)
RECIPES: dict[str, tuple[int, ...]] = {"k=0": (0,), "k=8": (8,), "random k": (0, 8)}  # k is drawn from these
UNTRAINED = "not trained"  # a projection as it is drawn
EVALUATED = ("k0", "window-8", "all")


class Matcher(nn.Module):
    """Attention between two maps with a learned projection, one for queries and keys, and a learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(WIDTH, channels)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))

    def forward(self, row: Row, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Carry a value (K, Hf, Wf) from a map of features (C, Hf, Wf) to another (C, H, W)."""
        query, key = (torch.einsum("dc,chw->dhw", self.weight, t) for t in (query, key))
        if row.whole() and not torch.is_grad_enabled():
            return everything(query, key, value, self.log_scale.exp())
        return attend(row, query, key, value, self.log_scale.exp())


def loss_of(given: Tensor, true: Tensor) -> Tensor:
    """Cross-entropy of carried shares of classes (12, H, W) against the true ones; the unlabelled does not count."""
    given, true = given[:CLASSES].clamp_min(1e-4), true[:CLASSES]
    return -(true * given.log()).sum() / true.sum().clamp_min(1)


def train(
    recipe: str,
    seed: int,
    pairs: Sequence[Pair],
    features: Callable[[str], Tensor],
    values: Callable[[str], Tensor],
    steps: int = STEPS,
) -> tuple[Matcher, list[float]]:
    """Train one matcher.

    A step takes one pair. Its queries are those of a random quarter of the map, in blocks as large as in evaluation.

    Args:
        recipe: From `RECIPES`, or `UNTRAINED`, which takes no step.
        seed: Of the first weights, of the order of pairs and quarters, and of k.
        pairs: Of the training part.
        features: Of a frame's name.
        values: Its classes on the map, see `labels.one_hot`.
        steps: Number of steps.

    Returns:
        The matcher, and the loss of each step.
    """
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    matcher = Matcher(features(pairs[0].first).shape[0])
    optimizer = torch.optim.Adam(matcher.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    losses = []
    for _ in range(0 if recipe == UNTRAINED else steps):
        pair = pairs[int(torch.randint(len(pairs), (), generator=draw))]
        k = RECIPES[recipe][int(torch.randint(len(RECIPES[recipe]), (), generator=draw))]
        query, key = features(pair.second), features(pair.first)
        height, width = query.shape[1] // 2, query.shape[2] // 2
        top, left = (int(torch.randint(n + 1, (), generator=draw)) for n in (height, width))
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        row = replace(ROWS["window-8"], topk=k, selection=Window(GRID // 2))
        loss = loss_of(matcher(row, query[part], key, values(pair.first)), values(pair.second)[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(round(loss.item(), 4))
    return matcher.eval(), losses


def classes(camvid: Path) -> Callable[[str], Tensor]:
    """A frame's classes on the map, (12, H/4, W/4), by name."""
    return lambda name: one_hot(frames.mask(camvid, name))
