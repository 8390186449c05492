"""One attention or PST layer, ours or the textbook's, ready to be called once: what the suites time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lab.bench.textbook import textbook_attention, textbook_layer
from pst.control import attention_layers
from pst.control.folding import fuse
from pst.functional import pyramid_sparse_attention
from pst.modules import PST, PyramidSparseAttention
from pst.profile.flops import Work, count_work

KINDS = ("pst", "textbook")


@dataclass(frozen=True)
class Case:
    """One size of one layer.

    Attributes:
        side: Height and width of the fine map; the coarse map has half of it. N = side².
        channels: C, heads of 32 channels each.
        topk: k.
        layer: "attention" (`PyramidSparseAttention`) or "PST" (`PST` with 2C channels in and out, one block).
        train: Forward and backward in training mode; else the forward pass in eval mode.
        batch: Images.
        device: Where it runs.
        dtype: Of weights and maps.
    """

    side: int
    channels: int
    topk: int = 0
    layer: str = "attention"
    train: bool = False
    batch: int = 1
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def module(self) -> nn.Module:
        """The layer, weights in channels_last; for inference with its batch norms folded (`pst.fuse`)."""
        torch.manual_seed(0)
        c = self.channels
        module: nn.Module = (
            PyramidSparseAttention(c, c // 32, topk=self.topk)
            if self.layer == "attention"
            else PST(2 * c, 2 * c, 2 * c, topk=self.topk)
        )
        module = module.train(self.train).to(self.device, self.dtype)
        return (module if self.train else fuse(module)).to(memory_format=torch.channels_last)

    def maps(self) -> tuple[Tensor, Tensor]:
        """Fine and coarse map, channels_last."""
        generator = torch.Generator().manual_seed(0)
        channels = self.channels if self.layer == "attention" else 2 * self.channels
        shapes = [(self.batch, channels, side, side) for side in (self.side, self.side // 2)]
        x, upper = (
            torch.randn(shape, generator=generator)
            .to(self.device, self.dtype, memory_format=torch.channels_last)
            .requires_grad_(self.train)
            for shape in shapes
        )
        return x, upper

    def forward(self, kind: str) -> Callable[[nn.Module, Tensor, Tensor], Tensor] | None:
        """What replaces the module's own forward pass; None for ours."""
        if kind != "textbook":
            return None
        return textbook_attention if self.layer == "attention" else textbook_layer  # type: ignore[return-value]

    def work(self) -> Work:
        """Operations of one call, counted on our implementation."""
        return count_work(self.module(), self.maps(), train=self.train)

    def op_work(self) -> Work:
        """Operations of `op`: both products and the softmax of every logit, and the gate."""
        n, m = self.batch * self.side**2, (self.side // 2) ** 2
        keys = m + 4 * min(self.topk, m)
        gate = n * self.channels if self.topk else 0
        return Work(4 * n * keys * self.channels + 4 * 32 * gate, n * keys * (self.channels // 32) + gate)

    def call(self, kind: str) -> Callable[[], None]:
        """A function that runs it once.

        Args:
            kind: "pst", "textbook", or the name of one of our implementations, e.g. "fused".
        """
        module, maps, forward = self.module(), self.maps(), self.forward(kind)
        if kind not in KINDS:
            for layer in attention_layers(module).values():
                layer.impl = kind  # type: ignore[assignment]
        return partial(step, module if forward is None else partial(forward, module), *maps, train=self.train)

    def op(self) -> Callable[[], None]:
        """A function that runs `pst.functional.pyramid_sparse_attention` alone, on finished heads."""
        c, d = self.channels, 32
        shapes = [(self.batch, s, s, c // d, d) for s in (self.side, self.side // 2, self.side // 2)]
        query, key, value = (torch.randn(s, device=self.device).to(self.dtype).permute(0, 3, 1, 2, 4) for s in shapes)
        gate = (torch.randn(d, 2 * d).to(query), torch.zeros(d).to(query))
        return partial(
            step, partial(pyramid_sparse_attention, value=value, fine=(query, query), topk=self.topk, gate=gate),
            query, key, train=False,
        )  # fmt: skip


def step(forward: Callable[[Tensor, Tensor], Tensor], x: Tensor, upper: Tensor, *, train: bool) -> None:
    """One forward pass without gradients, or one forward and backward pass."""
    if train:
        forward(x, upper).sum().backward()
        return
    with torch.inference_mode():
        forward(x, upper)


def one_call(kind: str, case: Case, *, warmup: bool = False) -> None:
    """What `added_memory` runs; with ``warmup`` on a map of 8×8."""
    if warmup:
        case = Case(8, case.channels, case.topk, case.layer, case.train)
    case.call(kind)()
