"""Switches on a finished model: how many tokens to refine, how to fuse them, and what was selected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from pst.functional.attention import Fusion, check_fusion, check_topk
from pst.modules.attention import PyramidSparseAttention


@dataclass(frozen=True, eq=False)
class Selection:
    """What one attention layer selected in one forward pass.

    Attributes:
        index: (B, h, k) int64 on the CPU, flat indices into the coarse map, highest score first.
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


def set_topk(model: nn.Module, k: int) -> None:
    """Set the number of refined coarse tokens of every PST layer in ``model``.

    Args:
        model: Any Module with PST layers inside, a YOLO object included.
        k: Tokens per image and head; 0 switches fine attention off, more than there are means all.

    Raises:
        TypeError: ``model`` is not a Module or ``k`` not an integer.
        ValueError: ``model`` holds no PST layer, or ``k`` < 0.
    """
    check_topk(k)
    for layer in attention_layers(model).values():
        layer.topk = k
    _sync_predictor(model)


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
    _sync_predictor(model)


@contextmanager
def use_topk(model: nn.Module, k: int) -> Iterator[None]:
    """`set_topk` inside a with block; every layer gets its own k back afterwards."""
    before = {layer: layer.topk for layer in attention_layers(model).values()}
    set_topk(model, k)
    try:
        yield
    finally:
        for layer, topk in before.items():
            layer.topk = topk
        _sync_predictor(model)


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
    _sync_predictor(model)
    try:
        yield {name: recorder.selections for name, recorder in recorders.items()}
    finally:
        for recorder in recorders.values():
            recorder.active = False
        for layer, observer in before.items():
            layer.observer = observer
        _sync_predictor(model)


def _sync_predictor(model: nn.Module) -> None:
    """Give the settings of a YOLO object's layers to the copy of its model that it predicts with, once it has one."""
    backend = getattr(getattr(model, "predictor", None), "model", None)
    copied = getattr(backend, "model", None)
    if not isinstance(copied, nn.Module):
        return
    copies = [m for m in copied.modules() if isinstance(m, PyramidSparseAttention)]
    layers = attention_layers(model).values()
    if len(copies) != len(layers):  # a predictor of an exported file has none
        return
    for layer, copy in zip(layers, copies, strict=True):
        copy.topk, copy.fusion, copy.observer = layer.topk, layer.fusion, layer.observer
