"""Queries, keys and values of PST layers, and what they selected, recorded by hooks while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pst.control import Selection, record_selection
from pst.control.layers import find_attention
from pst.modules.attention import PyramidSparseAttention
from pst.modules.fine_statistics import find_norm


class Pass:
    """One run of one PST layer on one picture.

    Attributes:
        name: Of the layer, numbered where a layer that several levels share ran more than once.
        layer: The layer, as it was set then.
        query: (C, H, W) map.
        coarse: (2C, Hu, Wu) map of keys and values.
        fine: (2C, Hf, Wf), likewise; None with k = 0.
        selection: What was selected; None with k = 0.
    """

    def __init__(self, name: str, layer: PyramidSparseAttention) -> None:
        self.name, self.layer, self.settings = name, layer, layer.settings
        self.query: Tensor = torch.empty(0)
        self.coarse: Tensor = torch.empty(0)
        self.fine: Tensor | None = None
        self.selection: Selection | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the queries."""
        return self.query.shape[1], self.query.shape[2]

    @property
    def coarse_size(self) -> tuple[int, int]:
        """(Hu, Wu)."""
        return self.coarse.shape[1], self.coarse.shape[2]


@contextmanager
def record_passes(model: nn.Module) -> Iterator[list[Pass]]:
    """Record each run of each PST layer of a Module inside the with block; the model is left as it was."""
    passes: list[Pass] = []
    handles: list[Any] = []
    runs: dict[str, int] = {}
    for name, layer in find_attention(model).items():
        handles += [
            layer.register_forward_pre_hook(_begin(passes, runs, name)),
            layer.q.register_forward_hook(_keep_query(passes)),
            layer.kv.register_forward_hook(_keep_pair(passes)),
        ]
    try:
        with record_selection(model) as selected:
            yield passes
        for name, selections in selected.items():
            fine = [p for p in passes if p.layer is find_attention(model)[name] and p.fine is not None]
            for p, selection in zip(fine, selections, strict=True):
                p.selection = selection
    finally:
        for handle in handles:
            handle.remove()


def _begin(passes: list[Pass], runs: dict[str, int], name: str) -> Callable[..., None]:
    def hook(layer: Any, *_: Any) -> None:
        runs[name] = runs.get(name, 0) + 1
        passes.append(Pass(name if runs[name] == 1 else f"{name} ({runs[name]})", layer))

    return hook


def _keep_query(passes: list[Pass]) -> Callable[..., None]:
    def hook(*given: Any) -> None:  # module, arguments, output
        passes[-1].query = _own(given[-1])

    return hook


def _keep_pair(passes: list[Pass]) -> Callable[..., None]:
    """The projection of a layer is called with the coarse map first, then with the fine one."""

    def hook(*given: Any) -> None:
        output: Tensor = given[-1]
        p = passes[-1]
        if p.coarse.numel() == 0:
            p.coarse = _own(output)
            return
        statistics = p.layer.fine_statistics
        if statistics is not None and find_norm(p.layer.kv) is None:  # folded: it corrects what the projection gave
            scale, shift = (t[:, None, None] for t in statistics.correction())
            output = output * scale + shift
        p.fine = _own(output)

    return hook


def _own(output: Tensor) -> Tensor:
    """The first picture's map, float32 on the CPU, outside of inference mode."""
    with torch.inference_mode(False):
        return output[0].detach().cpu().float().clone()
