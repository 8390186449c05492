"""Switches on a finished model: how many tokens to refine, which, how to fuse them, and what was selected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from pst.functional._checks import check_fusion, check_share, check_topk
from pst.functional.attention import Fusion
from pst.functional.selection import SelectionRule, check_selection
from pst.modules.attention import PyramidSparseAttention

Topk: TypeAlias = "int | list[int] | tuple[int, ...] | Mapping[str, int]"


@dataclass(frozen=True, eq=False)
class Selection:
    """What one attention layer selected in one forward pass.

    Attributes:
        index: (B, h, k) int64 on the CPU, flat indices into the coarse map, highest score first, −1 in slots that
            "nucleus" left unused; with "window" (B, h, G, k), for G blocks of the fine map row by row.
        coarse_size: (Hu, Wu).
        fine_size: (H, W).
    """

    index: Tensor
    coarse_size: tuple[int, int]
    fine_size: tuple[int, int]


def attention_layers(model: nn.Module) -> dict[str, PyramidSparseAttention]:
    """Every `PyramidSparseAttention` in ``model`` by its module name, in order of registration.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: It holds no such layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch Module or a YOLO object, got {type(model).__name__}")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, PyramidSparseAttention)}
    if not layers:
        raise ValueError(f"{type(model).__name__} holds no PST layer: nothing to control")
    return layers


class _Recorder:
    """Collects the selections of one layer and of every deep copy of it, until switched off; pickled as None."""

    def __init__(self) -> None:
        self.selections: list[Selection] = []
        self.active = True

    def __call__(self, index: Tensor, coarse_size: tuple[int, int], fine_size: tuple[int, int]) -> None:
        if self.active and not index.is_meta:  # a pass on the meta device counts operations and selects nothing
            self.selections.append(Selection(index.detach().cpu(), coarse_size, fine_size))

    def __deepcopy__(self, memo: dict[int, object]) -> _Recorder:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


def set_topk(model: nn.Module, k: Topk) -> None:
    """Set the number of refined coarse tokens of the PST layers in ``model``.

    Args:
        model: Any Module with PST layers inside, a YOLO object included.
        k: Tokens per image and head; 0 switches fine attention off, more than there are means all. One for all
            layers; or a list or tuple, one for each attention layer, in the order of `record_selection`; or a mapping
            from names of modules, for the layers inside each, that leaves the others as they are.

    Raises:
        TypeError: ``model`` is not a Module or a k not an integer.
        ValueError: ``model`` holds no PST layer, a k is negative, their number is not that of the layers, or a name
            is of no module with PST layers. Then nothing is changed.
    """
    layers = attention_layers(model)
    ks = _topk_of_layers(layers, k)
    for name, layer in layers.items():
        layer.topk = ks[name]
    sync_predictor(model)


def _topk_of_layers(layers: Mapping[str, PyramidSparseAttention], k: Topk) -> dict[str, int]:
    """k of every layer by its name, checked."""
    if isinstance(k, Mapping):
        ks = {name: layer.topk for name, layer in layers.items()}
        for prefix, value in k.items():
            inside = [name for name in layers if name == prefix or name.startswith(f"{prefix}.")]
            if not inside:
                raise ValueError(f"{prefix!r} is no module with PST layers: choose among {list(layers)}")
            ks.update(dict.fromkeys(inside, check_topk(value)))
        return ks
    if isinstance(k, (list, tuple)):
        if len(k) != len(layers):
            raise ValueError(f"got {len(k)} values of k for {len(layers)} PST layers: {list(layers)}")
        return {name: check_topk(value) for name, value in zip(layers, k, strict=True)}
    return dict.fromkeys(layers, check_topk(k))


def set_selection(model: nn.Module, selection: str | SelectionRule) -> None:
    """Set the selection rule of every PST layer in ``model``.

    Args:
        model: Any Module with PST layers inside, a YOLO object included.
        selection: "mean", "mass", "window", "nucleus", "random", "gumbel", or a rule of `pst.functional.selection`
            with settings of its own, e.g. ``Window(grid=8)``.

    Raises:
        TypeError: ``model`` is not a Module, or ``selection`` no rule.
        ValueError: ``model`` holds no PST layer, or the name is unknown.
    """
    check_selection(selection)
    for layer in attention_layers(model).values():
        layer.selection = selection
    sync_predictor(model)


def set_gate(model: nn.Module, share: float) -> None:
    """Make every gate a constant: the fine branch has this share in the result, whatever the branches hold.

    Overwrites the gates' weights with 0 and their biases with log(share / (1 − share)).

    Args:
        model: Any Module with PST layers inside, a YOLO object included.
        share: g, above 0 and below 1.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer, one without a gate or with a gate whose weight and bias are not plain
            parameters of a Linear (parametrised, pruned, quantised, an adapter), or ``share`` is out of range. Then
            nothing is changed.
    """
    check_share(share)
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share!r}: k = 0 leaves the fine branch out")
    layers = attention_layers(model)
    gates = {name: layer.gate for name, layer in layers.items()}
    missing = [name for name, gate in gates.items() if gate is None]
    if missing:
        raise ValueError(f'these layers were built with fusion="refine" and have no gate: {missing}')
    others = {name: gate for name, gate in gates.items() if not _is_linear(gate)}
    if others:
        name, gate = next(iter(others.items()))
        raise ValueError(
            f"set_gate overwrites weight and bias of a Linear, and the gate of {name or 'the layer'} is a "
            f"{type(gate).__name__} without such parameters: put a Linear in its place first"
        )
    for gate in gates.values():
        assert isinstance(gate, nn.Linear)
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, math.log(share / (1 - share)))
    sync_predictor(model)


def _is_linear(gate: nn.Module | None) -> bool:
    """Whether what is written to its weight and bias is what the gate computes with."""
    return isinstance(gate, nn.Linear) and {"weight", "bias"} == {name for name, _ in gate.named_parameters()}


def set_fusion(model: nn.Module, fusion: Fusion) -> None:
    """Set the fusion of every PST layer in ``model``: "gate" or "refine".

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer, ``fusion`` is unknown, or it is "gate" and a layer has no gate.
            Then nothing is changed.
    """
    check_fusion(fusion)
    layers = attention_layers(model)
    missing = [name for name, layer in layers.items() if fusion == "gate" and layer.gate is None]
    if missing:
        raise ValueError(f'fusion="gate" needs a gate, but these layers were built with "refine": {missing}')
    for layer in layers.values():
        layer.fusion = fusion
    sync_predictor(model)


@contextmanager
def use_topk(model: nn.Module, k: Topk) -> Iterator[None]:
    """`set_topk` inside a with block; every layer gets its own k back afterwards.

    k belongs to the model, not to the thread: two threads that want different k at one time need a model each, e.g.
    ``copy.deepcopy(model)``, whose tensors may be shared. The same holds for `record_selection` and the other switches.
    """
    before = {layer: layer.topk for layer in attention_layers(model).values()}
    set_topk(model, k)
    try:
        yield
    finally:
        for layer, topk in before.items():
            layer.topk = topk
        sync_predictor(model)


@contextmanager
def record_selection(model: nn.Module) -> Iterator[dict[str, list[Selection]]]:
    """Record which coarse tokens each PST layer selects inside the with block.

    Yields:
        Module name -> one `Selection` for every forward pass with k > 0; layers that ran with k = 0 have none.

    Examples:
        >>> with use_topk(model, 8), record_selection(model) as selected:
        ...     model(images)
        >>> selected["neck.blocks.0.attn"][0].index.shape
        torch.Size([1, 2, 8])
    """
    layers = attention_layers(model)
    before = {layer: layer.observer for layer in layers.values()}
    recorders = {name: _Recorder() for name in layers}
    for name, layer in layers.items():
        layer.observer = recorders[name]
    sync_predictor(model)
    try:
        yield {name: recorder.selections for name, recorder in recorders.items()}
    finally:
        for recorder in recorders.values():
            recorder.active = False
        for layer, observer in before.items():
            layer.observer = observer
        sync_predictor(model)


def inner_model(model: nn.Module) -> nn.Module:
    """The Module that runs: the one inside a YOLO object, or ``model`` itself."""
    inner = getattr(model, "model", None)
    return inner if hasattr(model, "predictor") and isinstance(inner, nn.Module) else model


def sync_predictor(model: nn.Module) -> None:
    """Give the settings of a YOLO object's layers to the copy of its model that it predicts with, once it has one.

    The copy's gates and fine statistics are set as well: they can be changed on a finished model as settings can.
    """
    backend = getattr(getattr(model, "predictor", None), "model", None)
    copied = getattr(backend, "model", None)
    if not isinstance(copied, nn.Module):
        return
    copies = [m for m in copied.modules() if isinstance(m, PyramidSparseAttention)]
    layers = attention_layers(model).values()
    if len(copies) != len(layers):  # a predictor of an exported file has none
        return
    for layer, copy in zip(layers, copies, strict=True):
        copy.topk, copy.fusion, copy.observer, copy.selection = (
            layer.topk,
            layer.fusion,
            layer.observer,
            layer.selection,
        )
        like = next(copy.parameters())
        if layer.gate is not None and copy.gate is not None:  # whatever Module it is by now
            copy.gate = deepcopy(layer.gate).to(like)
        copy.fine_statistics = None if layer.fine_statistics is None else deepcopy(layer.fine_statistics).to(like)
