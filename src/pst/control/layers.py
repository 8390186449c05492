"""The PST layers inside a model: the one place that finds them, and what hosts keep beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

from torch import nn

from pst.modules.attention import PyramidSparseAttention


class Wrapper(NamedTuple):
    """A host's object around a model, which users hand over as they would the model.

    Attributes:
        kind: Its class.
        inner: Gives the Module that runs.
        copies: Gives the other Modules that it runs in the place of that one, which are to follow its settings.
    """

    kind: type
    inner: Callable[[Any], object]
    copies: Callable[[Any], Iterable[nn.Module]]


_wrappers: list[Wrapper] = []


def register_wrapper(kind: type, inner: Callable[[Any], object], copies: Callable[[Any], Iterable[nn.Module]]) -> None:
    """Let every function of `pst.control` take objects of a host's class; see `Wrapper`. An adapter calls this once."""
    _wrappers.append(Wrapper(kind, inner, copies))


def find_attention(model: nn.Module) -> dict[str, PyramidSparseAttention]:
    """Every `PyramidSparseAttention` in ``model`` by its module name, in order of registration; it may be empty."""
    return {name: m for name, m in model.named_modules() if isinstance(m, PyramidSparseAttention)}


def attention_layers(model: nn.Module) -> dict[str, PyramidSparseAttention]:
    """`find_attention` of a model that must have some.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: It holds no such layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch Module or a YOLO object, got {type(model).__name__}")
    layers = find_attention(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} holds no PST layer: build the model with pst.PST, or a builder of pst.integrations"
        )
    return layers


def find_gates(model: nn.Module) -> dict[str, nn.Module]:
    """The gate of every layer by the layer's name; raises as `attention_layers`, and ValueError where one has none."""
    gates = {name: layer.gate for name, layer in attention_layers(model).items()}
    missing = [name for name, gate in gates.items() if gate is None]
    if missing:
        raise ValueError(f'these layers were built with fusion="refine" and have no gate: {missing}')
    return {name: gate for name, gate in gates.items() if gate is not None}


def inner_model(model: nn.Module) -> nn.Module:
    """The Module that runs: the one inside a host's object, or ``model`` itself."""
    for wrapper in _wrappers:
        if isinstance(model, wrapper.kind):
            inner = wrapper.inner(model)
            return inner if isinstance(inner, nn.Module) else model
    return model


def sync_copies(model: nn.Module) -> None:
    """Give the settings of a host object's layers to the copies of its model that it runs, once it has some.

    The copies' gates and fine statistics are set as well: they can be changed on a finished model as settings can.
    """
    for wrapper in _wrappers:
        if isinstance(model, wrapper.kind):
            for copy in wrapper.copies(model):
                _follow(list(find_attention(copy).values()), list(attention_layers(model).values()))


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside a with block; every submodule gets its own mode back."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, training in modes.items():
            m.training = training


def _follow(copies: list[PyramidSparseAttention], layers: list[PyramidSparseAttention]) -> None:
    if len(copies) != len(layers):  # an exported file has none
        return
    for layer, copy in zip(layers, copies, strict=True):
        copy.settings, copy.observer = layer.settings, layer.observer
        like = next(copy.parameters())
        if layer.gate is not None and copy.gate is not None:  # whatever Module it is by now
            copy.gate = deepcopy(layer.gate).to(like)
        copy.fine_statistics = None if layer.fine_statistics is None else deepcopy(layer.fine_statistics).to(like)
