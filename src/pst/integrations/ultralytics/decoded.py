"""The model inside a decoded checkpoint: what it says of itself, its layers, its weights. See `pst.io.safe_load`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pst.integrations.ultralytics.known import AUTHORS_LAYERS, RENAMED, class_names
from pst.io.safe_load import TRUST, Record, copy_tensor, load, plain
from pst.modules import PyramidSparseAttention

_MAX_MODULES, _MAX_DEPTH = 50_000, 50  # far more than any model has; a pickle can nest one layer in itself
_ATTENTION = f"{PyramidSparseAttention.__module__}.{PyramidSparseAttention.__qualname__}"
# of PyTorch's layers: what does not decide what a trained model computes
_SETTINGS = frozenset({"training", "inplace", "momentum", "p", "num_parameters", "recompute_scale_factor"})


def decode(path: str | Path) -> Any:
    """What is in a ``.pt``, layers as records; see `pst.io.safe_load.load`."""
    return load(path, class_names())


class DecodedModel:
    """The model of a checkpoint, the averaged one (EMA) where there is one, as Ultralytics prefers it.

    Args:
        path: A ``.pt`` file.
        root: What `decode` gave of it, if it was read already.

    Attributes:
        path: The file.
        entries: The checkpoint's other entries, as decoded.
        averaged: Whether it is the averaged one.
        layers: Each layer by its name with a dot behind it; "" is the model itself.
        authors: Whether the PST authors' fork of Ultralytics wrote it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is damaged, names what is not known, or holds no Ultralytics model.
    """

    def __init__(self, path: str | Path, root: Any = None) -> None:
        self.path = Path(path)
        root = decode(path) if root is None else root
        self.entries: dict[Any, Any] = root if isinstance(root, dict) else {}
        key = next((key for key in ("ema", "model") if isinstance(self.entries.get(key), Record)), None)
        if key is None:
            raise ValueError(f"{path} holds no Ultralytics model: pass a checkpoint that a training wrote")
        self.averaged, model = key == "ema", self.entries[key]
        self.layers = dict(self._layers(model))
        self.authors = any(layer.name in AUTHORS_LAYERS for layer in self.layers.values())
        self.class_name = _class_name(model)
        if self.entries.get("modelopt") is not None:
            raise ValueError(f"{path} holds the state of ModelOpt, which is not read; {TRUST}")

    def said(self, key: str) -> Any:
        """An attribute of the model as plain data; None when there is none."""
        return self._plain(self.layers[""].state.get(key), f"the model's {key}")

    def entry(self, key: str, *, tensors: bool = False) -> Any:
        """An entry of the checkpoint as plain data; None when there is none."""
        return self._plain(self.entries.get(key), key, tensors=tensors)

    def attention(self) -> dict[str, Any]:
        """Settings of each attention layer of ours by name, as the file has them: version 0.1 kept three attributes."""
        found = {prefix[:-1]: layer.state for prefix, layer in self.layers.items() if layer.name == _ATTENTION}
        return {
            name: self._plain(
                state.get("_settings", [state.get(key) for key in ("_topk", "_fusion", "selection")]),
                f"settings of {name}",
            )
            for name, state in found.items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by their usual names, with the stored dtypes.

        Raises:
            ValueError: The tree is malformed, or tensors are shared by more layers than the file has room for.
        """
        state: dict[str, Tensor] = {}
        room = 4 * self.path.stat().st_size
        for prefix, layer in self.layers.items():
            transient = layer.state.get("_non_persistent_buffers_set", ())
            tensors = {**self._entries(layer, "_parameters", Tensor), **self._entries(layer, "_buffers", Tensor)}
            for name, t in tensors.items():
                if name not in transient:
                    state[prefix + name] = self._tensor(t, prefix + name)
                    room -= t.numel() * t.element_size()
                    if room < 0:
                        raise ValueError(f"{self.path} describes more weights than it holds")
        return state

    def tensor(self, key: str) -> Tensor | None:
        """An attribute of the model that is a tensor, copied."""
        t = self.layers[""].state.get(key)
        return self._tensor(t, key) if isinstance(t, Tensor) else None

    def check_layers(self, model: nn.Module) -> None:
        """Raise ValueError unless ``model``, built of the file's YAML, has the layers that the file has."""
        built = dict(model.named_modules(remove_duplicate=False))
        for prefix, layer in self.layers.items():
            own = built.get(prefix[:-1])
            if own is None or type(own).__name__ != _class_name(layer):
                found = "none" if own is None else f"a {type(own).__name__}"
                raise ValueError(self._other(f"{prefix[:-1]} is a {_class_name(layer)}, by the YAML {found}"))
            if layer.name.startswith("torch.nn."):
                self._check_settings(prefix, layer, own)

    def _check_settings(self, prefix: str, layer: Record, built: nn.Module) -> None:
        for name, value in layer.state.items():
            own = vars(built).get(name, value)
            if name[0] == "_" or name in _SETTINGS or type(value) not in (bool, int, float, str, tuple):
                continue
            if own != value:
                raise ValueError(self._other(f"{prefix}{name} is {plain(value)}, by the YAML {own}"))

    def _other(self, difference: str) -> str:
        return f"{self.path} holds another model than its YAML describes ({difference}); {TRUST}"

    def _layers(self, model: Record) -> Iterator[tuple[str, Record]]:
        """(prefix, layer) of the model and everything below it, in PyTorch's order."""
        stack = [("", model, 0)]
        for _ in range(_MAX_MODULES):
            if not stack:
                return
            prefix, module, depth = stack.pop()
            if not isinstance(module.state, dict) or depth > _MAX_DEPTH:
                break
            yield prefix, module
            children = self._entries(module, "_modules", Record).items()
            stack.extend((f"{prefix}{name}.", child, depth + 1) for name, child in reversed(children))
        raise ValueError(f"{self.path} holds no tree of layers: one seems to hold itself, or has no attributes")

    def _entries(self, layer: Record, attribute: str, kind: type) -> dict[str, Any]:
        try:
            return _entries(layer, attribute, kind)
        except ValueError as error:
            raise ValueError(f"{self.path} is a {error}") from error

    def _plain(self, value: Any, what: str, *, tensors: bool = False) -> Any:
        try:
            return plain(value, tensors=tensors)
        except ValueError as error:
            raise ValueError(f"{self.path} has {error} in {what}; {TRUST}") from error

    def _tensor(self, t: Any, name: str) -> Tensor:
        try:
            return copy_tensor(t)
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged: {name} is {error}") from error


def _class_name(layer: Record) -> str:
    name = layer.name.rpartition(".")[2]
    return RENAMED.get(name, name)


def _entries(layer: Record, attribute: str, kind: type) -> dict[str, Any]:
    """Entries of one of a layer's dicts (``_modules``, …) that are not None, checked."""
    entries = layer.state.get(attribute, {})
    if not isinstance(entries, dict) or not all(isinstance(name, str) and len(name) < 256 for name in entries):
        raise ValueError(f"malformed checkpoint: {attribute} of a {layer.name} is not a dict with names")
    found = {name: entry for name, entry in dict.items(entries) if entry is not None}
    if not all(isinstance(entry, kind) for entry in found.values()):
        raise ValueError(f"malformed checkpoint: {attribute} of a {layer.name} holds no {kind.__name__}")
    return found
