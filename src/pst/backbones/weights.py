"""Weights of a backbone from a local file or a state dict, checked tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pst.io import safe_load
from pst.io.checkpoints import load_safetensors
from pst.io.files import check_file
from pst.io.names import one_line
from pst.io.transfer import Shapes, check_finite, difference, shapes

Weights = str | Path | Mapping[str, Any]

_INSIDE = ("state_dict", "model_state_dict", "model")  # where checkpoints of trainings keep the weights
_DEEPEST = 4  # so many of them inside each other
_AROUND = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before the names
_GIVEN = "the state dict of weights"
COUNTER = "num_batches_tracked"  # which files of before PyTorch 0.4.1 have not
INTEGERS = (COUNTER, "relative_position_index")  # the only ones among weights


def read_weights(weights: Weights) -> tuple[dict[str, Tensor], str]:
    """State dict, and what to call it in a message.

    Args:
        weights: File, ``.safetensors`` or of ``torch.save``, or a state dict. A checkpoint may hold its state dict as
            "state_dict", "model_state_dict" or "model", and its names may begin as those of DataParallel and
            ``torch.compile`` do. Nothing that a file names is executed.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is neither a file nor a mapping.
        ValueError: The file cannot be read, or holds no state dict.
    """
    if isinstance(weights, Mapping):
        inside = _unpacked(weights)
        if empty := [name for name, t in inside.items() if isinstance(t, Tensor) and t.is_meta]:
            raise ValueError(f"{_GIVEN} has no values: {one_line(empty[0])} is on the device meta")
        given = {name: t.detach().cpu() if isinstance(t, Tensor) else t for name, t in inside.items()}
        return _tensors(given, _GIVEN), _GIVEN
    if not isinstance(weights, (str, Path)):
        raise TypeError(f"weights must be a file or a state dict, got {type(weights).__name__}")
    path = Path(weights)
    if path.suffix == ".safetensors":
        return _tensors(load_safetensors(path)[0], str(path)), str(path)
    check_file(path, "weights", "give a .safetensors file, or one of torch.save")
    found = safe_load.load(path, remedy="save its state dict alone, or get the weights as .safetensors")
    return _tensors(_unpacked(found), str(path)), str(path)


def _unpacked(found: Any) -> Any:
    """What lies inside a checkpoint, or what was given, where nothing does."""
    for _ in range(_DEEPEST):  # a file can hold a dict that holds itself
        parts = [found.get(key) for key in _INSIDE] if isinstance(found, Mapping) else []
        inside = next((part for part in parts if isinstance(part, Mapping) and part), None)
        if inside is None:
            break
        found = inside
    return found


def _prefix(names: Collection[str]) -> str:
    """What wrappers put before every name."""
    found = ""
    while around := next((a for a in _AROUND if all(name.startswith(found + a) for name in names)), ""):
        found += around
    return found


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str, heads: Sequence[str] = ()) -> None:
    """Put a state dict into a module, all of it.

    Args:
        module: Changed in place.
        state: By the module's names.
        source: For the message.
        heads: Names of submodules that may be missing, or of another shape, in ``state``; they stay as they are.

    Raises:
        ValueError: An entry is missing, unknown or of another shape, or a weight is NaN or infinite.
    """
    own = shapes(module.state_dict())
    check(own, state, source, heads)
    kept = {name: t for name, t in state.items() if name in own and not _is_of(name, heads)}
    module.load_state_dict(kept, strict=False)
    check_finite(module, source)


def check(own: Shapes, state: Mapping[str, Tensor], source: str, heads: Sequence[str] = ()) -> None:
    """Raise ValueError unless a state dict has what a module of these shapes has, see `fill`."""
    got = {name: shape for name, shape in shapes(state).items() if not _is_of(name, heads)}
    optional = {name for name in own if name.endswith(COUNTER) and name not in got}
    wanted = {name: shape for name, shape in own.items() if not _is_of(name, heads) and name not in optional}
    if said := difference(wanted, got):
        raise ValueError(f"{source} does not hold the weights of this backbone: {said}; give those of the same network")
    if wrong := [name for name in wanted if not (state[name].is_floating_point() or name.endswith(INTEGERS))]:
        raise ValueError(f"{source} does not hold weights: {wrong[0]} is {state[wrong[0]].dtype}")


def misfits(own: Shapes, state: Mapping[str, Tensor], heads: Sequence[str] = ()) -> int:
    """How many entries are missing, unknown or of another shape, class layers aside."""
    got = shapes(state)
    return sum(own.get(name) != got.get(name) for name in {**own, **got} if not _is_of(name, heads))


def fits(own: Shapes, state: Mapping[str, Tensor], heads: Sequence[str] = ()) -> bool:
    """Whether `check` accepts a state dict."""
    try:
        check(own, state, "", heads)
    except ValueError:
        return False
    return True


def filled_network(
    build: Callable[[int], nn.Module], state: Mapping[str, Tensor], source: str, in_channels: int
) -> tuple[nn.Module, int]:
    """A classifier with these weights, and the channels of images that they are for: three, or ``in_channels``.

    Args:
        build: Makes the classifier for so many channels, with fresh weights.
        state: Weights; those of the class layers may be missing or of other classes.
        source: For the message.
        in_channels: That are wanted.
    """
    network, channels = build(3), 3
    if in_channels != 3 and not fits(shapes(network.state_dict()), state, heads_of(network)):
        network, channels = build(in_channels), in_channels
    fill(network, state, source, heads_of(network))
    return network, channels


def heads_of(network: Any) -> tuple[str, ...]:
    """Names of the class layers of a classifier of timm or torchvision."""
    config = getattr(network, "pretrained_cfg", None)
    if config is not None:
        named = config.get("classifier") or ()
        return (named,) if isinstance(named, str) else tuple(named)
    return tuple(name for name in ("fc", "classifier", "head", "heads") if hasattr(network, name))


def _is_of(name: str, heads: Sequence[str]) -> bool:
    return any(name.startswith(f"{head}.") for head in heads)


def _tensors(found: Any, source: str) -> dict[str, Tensor]:
    if not isinstance(found, Mapping) or not found or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{source} holds no state dict: wanted are tensors by name")
    around = _prefix(found)
    return {name.removeprefix(around): _copied(name, t, source) for name, t in found.items()}


def _copied(name: str, t: Any, source: str) -> Tensor:
    try:
        return safe_load.copy_tensor(t)
    except ValueError as error:
        looked = ", ".join(_INSIDE)
        raise ValueError(
            f"{source} holds no state dict, neither by itself nor as one of {looked}: {one_line(name)}: {error}"
        ) from error
