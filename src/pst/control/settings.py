"""Switches on a finished model: how many tokens to refine, which, and how to fuse them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

from torch import nn

from pst.control.layers import attention_layers, find_gates, sync_copies
from pst.functional.attention import Fusion
from pst.functional.checks import check_share, check_topk
from pst.functional.selection import SelectionRule
from pst.modules.attention import PyramidSparseAttention
from pst.modules.settings import check_names

Topk: TypeAlias = "int | list[int] | tuple[int, ...] | Mapping[str, int]"


def set_options(model: nn.Module, **options: Any) -> None:
    """Set several options of every PST layer in ``model`` at once; the others stay as they are.

    Args:
        model: Any Module with PST layers inside, a YOLO object included.
        **options: Fields of `pst.modules.settings.Settings`: ``topk``, in any form that `set_topk` takes, ``fusion``,
            ``selection``, ``similarity``, ``max_tokens``.

    Raises:
        TypeError: ``model`` is not a Module, there is no such option, or a value is of the wrong type.
        ValueError: ``model`` holds no PST layer, a value is wrong, or needs what a layer was built without, as "gate" a
            gate. Whatever is raised, nothing was changed.

    Examples:
        >>> pyramid = pst.PSTPyramid([64, 128, 256], 64)
        >>> set_options(pyramid, topk=8, fusion="refine")
    """
    layers = attention_layers(model)
    check_names(options)
    ks = _topk_of_layers(layers, options["topk"]) if "topk" in options else {}
    settings = {
        name: replace(layer.settings, **options | ({"topk": ks[name]} if ks else {})) for name, layer in layers.items()
    }
    lacking = {name: said for name, new in settings.items() if (said := layers[name].lacks(new))}
    if lacking:
        raise ValueError(f"{list(lacking)}: each of these layers {next(iter(lacking.values()))}")
    for name, layer in layers.items():
        layer.settings = settings[name]
    sync_copies(model)


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
    set_options(model, topk=k)


def _topk_of_layers(layers: Mapping[str, PyramidSparseAttention], k: Topk) -> dict[str, int]:
    """k of every layer by its name, checked."""
    if isinstance(k, Mapping):
        ks = {name: layer.topk for name, layer in layers.items()}
        for prefix, value in k.items():
            inside = [name for name in layers if name == prefix or name.startswith(f"{prefix}.")]
            if not inside:
                raise ValueError(f"{prefix!r} is not a module with PST layers: choose among {list(layers)}")
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
        selection: A name in `pst.functional.selection.RULES`, or a rule of `pst.functional.selection` with settings
            of its own, e.g. ``Window(grid=8)``.

    Raises:
        TypeError: ``model`` is not a Module, or ``selection`` no rule.
        ValueError: ``model`` holds no PST layer, or the name is unknown.
    """
    set_options(model, selection=selection)


def set_max_tokens(model: nn.Module, max_tokens: int | None) -> None:
    """Set the most coarse tokens that the queries of every PST layer in ``model`` attend to; None means no bound.

    More are averaged, which costs accuracy that depends on the model: measure it on images of your own.

    Raises:
        TypeError: ``model`` is not a Module, or ``max_tokens`` neither an integer nor None.
        ValueError: ``model`` holds no PST layer, or ``max_tokens`` < 1.
    """
    set_options(model, max_tokens=max_tokens)


@contextmanager
def use_max_tokens(model: nn.Module, max_tokens: int | None) -> Iterator[None]:
    """`set_max_tokens` inside a with block; every layer gets its own bound back afterwards."""
    before = {layer: layer.settings for layer in attention_layers(model).values()}
    set_max_tokens(model, max_tokens)
    try:
        yield
    finally:
        for layer, settings in before.items():
            layer.settings = replace(layer.settings, max_tokens=settings.max_tokens)
        sync_copies(model)


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
    gates = find_gates(model)
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
    sync_copies(model)


def _is_linear(gate: nn.Module) -> bool:
    """Whether what is written to its weight and bias is what the gate computes with."""
    return isinstance(gate, nn.Linear) and {"weight", "bias"} == {name for name, _ in gate.named_parameters()}


def set_fusion(model: nn.Module, fusion: Fusion) -> None:
    """Set the fusion of every PST layer in ``model``: "gate" or "refine".

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer, ``fusion`` is unknown, or it is "gate" and a layer has no gate.
            Then nothing is changed.
    """
    set_options(model, fusion=fusion)


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
        sync_copies(model)
