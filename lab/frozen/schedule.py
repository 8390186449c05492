"""The training loop: AdamW, one cycle of the rate, batches by index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How every row is trained alike.

    Attributes:
        epochs: Over the training pictures.
        batch: Pictures in a step; those that do not fill one up are left out of the epoch.
        lr: Highest rate, after a tenth of the steps; it then falls to zero as a cosine does.
        decay: AdamW's weight decay.
    """

    epochs: int = 12
    batch: int = 8
    lr: float = 1e-3
    decay: float = 1e-4

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generator of the CPU starts with a seed, and goes on afterwards where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train(
    groups: Sequence[dict[str, Any]],
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    count: int,
    seed: int,
    recipe: Recipe,
    device: str,
    say: Callable[[str], None],
    clip: float | None = None,
) -> list[float]:
    """Train.

    Args:
        groups: Parameters, each group with its "share" of the rate, 1 unless given.
        model: Put in training mode.
        loss: Of the indices of a batch (B,) and of which of them are flipped (B,) bool, both on the device.
        count: Pictures.
        seed: Of their order; drawn on the CPU, so that every device gets the same.
        recipe: How long, how fast.
        device: Of the indices.
        say: Called after every epoch.
        clip: Greatest norm of all gradients together.

    Returns:
        Mean loss of each epoch.
    """
    steps = count // recipe.batch
    if steps == 0:
        raise ValueError(f"{count} pictures do not fill a batch of {recipe.batch}: choose a smaller --batch")
    given = [{"params": g["params"], "lr": recipe.lr * g.get("share", 1.0)} for g in groups]
    optimizer = torch.optim.AdamW(given, weight_decay=recipe.decay, fused=device != "cpu")
    rates = [g["lr"] for g in given]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=recipe.epochs * steps, pct_start=0.1, cycle_momentum=False
    )
    order = torch.Generator().manual_seed(seed)
    model.train()
    losses = []
    for epoch in range(recipe.epochs):
        picked = torch.randperm(count, generator=order)[: steps * recipe.batch].view(steps, -1).to(device)
        flipped = (torch.rand(steps, recipe.batch, generator=order) < 0.5).to(device)
        total = torch.zeros((), device=device)
        for index, flip in zip(picked, flipped, strict=True):
            value = loss(index, flip)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_([p for g in given for p in g["params"]], clip)
            optimizer.step()
            schedule.step()
            total += value.detach()
        losses.append(round(float(total) / steps, 5))
        say(f"epoch {epoch + 1}/{recipe.epochs}, loss {losses[-1]:.3f}")
    return losses
