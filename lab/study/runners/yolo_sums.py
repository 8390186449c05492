"""A sum of maps as a row of an Ultralytics model: what FPN and BiFPN fuse with, for comparisons with PST.

Importing this lets the adapter read the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pst.integrations.ultralytics import register
from pst.integrations.ultralytics.parser import KINDS, Kind, Row, scaled_row


class SumRow(nn.Module):
    """Sum of maps of one shape, in a YAML ``[[a, b, …], 1, Sum, [channels, {weighted: true}]]``.

    A plain sum is FPN's (arXiv 1612.03144). A weighted one is BiFPN's fast normalised fusion (arXiv 1911.09070,
    section 3.3): Σ wᵢ·xᵢ / (ε + Σ wᵢ) with wᵢ = ReLU of a learned number that starts at 1, ε = 1e-4.

    Args:
        sources: Number of maps, at least 2.
        weighted: Whether the weights are learned.

    Raises:
        ValueError: Fewer than two maps.
    """

    # Set on every row by the parser: its number, its sources, its name in logs and its number of parameters.
    i: int
    f: list[int]
    type: str  # pyright: ignore[reportIncompatibleMethodOverride]
    np: int

    def __init__(self, sources: int, *, weighted: bool = False) -> None:
        super().__init__()
        if sources < 2:
            raise ValueError(f"a sum needs two maps at least, got {sources}")
        self.sources = sources
        self.weight = nn.Parameter(torch.ones(sources)) if weighted else None

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """``sources`` maps (B, C, H, W) -> (B, C, H, W).

        Raises:
            ValueError: Another number of maps, or their shapes differ.
        """
        if len(x) != self.sources or any(t.shape != x[0].shape for t in x):
            raise ValueError(f"expected {self.sources} maps of one shape, got {[tuple(t.shape) for t in x]}")
        if self.weight is None:
            return torch.stack(tuple(x)).sum(0)
        weight = self.weight.relu()
        weight = weight / (weight.sum() + 1e-4)
        return torch.stack([w * t for w, t in zip(weight.unbind(), x, strict=True)]).sum(0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        register()
        super().__setstate__(state)


def _read(d: dict[str, Any], index: int, row: list[Any]) -> Row:
    """Check one Sum row and scale its width."""
    from_, repeats, _, args = row
    options = args[1] if len(args) == 2 else {}
    if not isinstance(from_, list) or repeats != 1 or not 1 <= len(args) <= 2 or not options.keys() <= {"weighted"}:
        raise ValueError(
            f"row {index} {row} is not a Sum row: wanted [[a, b, …], 1, Sum, [channels, {{weighted: false}}]]"
        )
    return scaled_row(d, index, row, args[0], options)


def _build(row: Row, widths: list[int]) -> SumRow:
    if set(widths) != {row.out_channels}:
        raise ValueError(f"row {row.number}: a Sum of {row.out_channels} channels has sources of {widths} channels")
    return SumRow(len(widths), **row.options)


KINDS["Sum"] = Kind(_read, _build, SumRow)
