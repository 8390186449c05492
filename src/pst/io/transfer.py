"""Weights of one model in another: all of them, or all but the class layers, or a sentence on what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from pst.io.names import one_line

Shapes = dict[str, tuple[int, ...]]


def shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Shape of each entry of a state dict."""
    return {name: tuple(t.shape) for name, t in state.items()}


def difference(wanted: Shapes, got: Shapes) -> str:
    """How two state dicts differ, in words with an example of each kind; "" when they do not."""
    missing, extra = ([name for name in a if name not in b] for a, b in ((wanted, got), (got, wanted)))
    other = [name for name in wanted if name in got and wanted[name] != got[name]]
    parts = [
        *(
            f"{len(names)} {what}, e.g. {one_line(names[0])}"
            for what, names in (("missing", missing), ("unknown", extra))
            if names
        ),
        *(f"{len(other)} of another shape, e.g. {one_line(n)} {got[n]}, not {wanted[n]}" for n in other[:1]),
    ]
    return "; ".join(parts)


def class_entries(build: Callable[[int], nn.Module], classes: int) -> set[str]:
    """Names of the entries that follow the number of classes: those of the class layers.

    ``build`` makes the model for a number of classes; it is called twice, on the meta device: nothing is computed.
    """
    with torch.device("meta"):
        one, other = (shapes(build(n).state_dict()) for n in (classes, classes + 1))
    return {name for name in {**one, **other} if one.get(name) != other.get(name)}


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], of_classes: Callable[[], Collection[str]] | None = None
) -> list[str]:
    """Load a state dict; entries of class layers that do not fit keep what the model has.

    Args:
        model: Changed in place; of no use after an error.
        state: Of a model of the same kind.
        of_classes: The names of the entries that need not fit, see `class_entries`; None means that all must.

    Returns:
        The names that kept the model's own values.

    Raises:
        ValueError: An entry is missing, unknown, or of another shape, the message counts and names them; or holds whole
            numbers in place of others.
    """
    own = model.state_dict()
    unlike = [name for name in own if name in state and own[name].shape != state[name].shape]
    kept = {name: t for name, t in state.items() if name not in unlike}
    for name in own.keys() & kept.keys():
        if own[name].is_floating_point() != kept[name].is_floating_point():
            raise ValueError(f"{name} is {kept[name].dtype}, wanted is {own[name].dtype}")
    try:
        missing, unknown = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:  # of an entry that a layer makes only when a file has it: fine statistics
        raise ValueError(str(error).splitlines()[-1].strip()) from error
    filled = {own[name].data_ptr() for name in kept if name in own}  # by any of the names of a shared layer
    missing = [name for name in missing if name not in unlike and own[name].data_ptr() not in filled]
    misfits = [*unlike, *missing, *unknown]
    may = of_classes() if misfits and of_classes is not None else ()
    wrong = [name for name in misfits if name not in may]
    if wrong:
        wanted, got = ({n: tuple(entries[n].shape) for n in wrong if n in entries} for entries in (own, state))
        raise ValueError(difference(wanted, got))
    return [name for name in misfits if name in own]


def check_finite(model: nn.Module, source: object) -> None:
    """Refuse a model whose weights are not numbers, as those of a training that diverged.

    Raises:
        ValueError: A parameter is NaN or infinite, or a buffer NaN; the message names ``source``.
    """
    broken = [name for name, values in model.named_parameters() if not values.isfinite().all()]
    broken += [name for name, values in model.named_buffers() if values.isnan().any()]
    if broken:
        raise ValueError(f"{source} holds weights that are NaN or infinite, e.g. {broken[0]}: train the model again")
