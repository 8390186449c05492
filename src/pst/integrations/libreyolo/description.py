"""What a checkpoint says about the PST layers inside: how they are built, and what was set on them since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pst.io.layer_settings import plain_settings
from pst.io.model_config import check_model_config
from pst.modules.settings import LayerOptions, split

ENTRY = "pst"  # of LibreYOLO's checkpoints, beside its own metadata
_SET_LATER = ("topk", "selection", "max_tokens")  # no layer is built in another way for these


@dataclass(frozen=True)
class Description:
    """Where PST stands in a neck, and how it is built there.

    Attributes:
        levels: Strides of the finer maps, coarsest first.
        options: Those of `pst.PST`.
    """

    levels: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def structure(self) -> dict[str, Any]:
        """The options that decide which parameters there are and how maps flow."""
        return {name: value for name, value in self.options.items() if name not in _SET_LATER}

    def builds_as(self, other: Description) -> bool:
        """Whether both describe the same layers, whatever is set on them."""
        return (self.levels, self.structure) == (other.levels, other.structure)

    def entry(self, model: nn.Module) -> dict[str, Any]:
        """For a checkpoint of ``model``: names, numbers and lists alone.

        Raises:
            TypeError: A selection rule is of the user's own.
        """
        return {"levels": list(self.levels), "options": self.structure, "settings": plain_settings(model)}


def describe(levels: Sequence[int] | None, choices: Sequence[int], options: Mapping[str, Any]) -> Description:
    """Check arguments of a user or of a file.

    Args:
        levels: Strides, in any order; None is all of ``choices``.
        choices: Strides that the network has a top-down fusion at, coarsest first.
        options: Those of `pst.PST`, save ``wiring``: the host has concatenated its maps already.

    Raises:
        TypeError: ``levels`` is not a list or tuple, or there is no such option.
        ValueError: A level is none of ``choices`` or named twice, or there is none.
    """
    own, others = split(options, LayerOptions)
    if "wiring" in own or others:
        wrong = sorted({*others, *({"wiring"} & own.keys())})
        known = sorted(LayerOptions.__optional_keys__ - {"wiring"})
        raise TypeError(f"PST in this neck has no option {', '.join(wrong)}: choose among {', '.join(known)}")
    if levels is None:
        return Description(tuple(choices), own)
    if not isinstance(levels, (list, tuple)):
        raise TypeError(f"levels must be a list or tuple of strides, got {levels!r}: choose among {list(choices)}")
    wrong = [level for level in levels if not isinstance(level, int) or level not in choices]
    if wrong or not levels or len(set(levels)) != len(levels):
        raise ValueError(f"levels must be different strides among {list(choices)}, at least one, got {list(levels)}")
    return Description(tuple(stride for stride in choices if stride in levels), own)


def described(entry: Any, choices: Sequence[int], source: str) -> tuple[Description, dict[str, Any]]:
    """What `Description.entry` of a file says, checked: nothing in it is executed.

    Returns:
        The description, and the settings by the layer's name.

    Raises:
        TypeError: As `describe`.
        ValueError: It is none, or holds what no model can be built of; the message names ``source``.
    """
    entry = entry if isinstance(entry, dict) else {}
    levels, options, settings = (entry.get(name) for name in ("levels", "options", "settings"))
    if not isinstance(levels, list) or not isinstance(options, dict) or not isinstance(settings, dict):
        raise ValueError(  # noqa: TRY004  # a file is wrong, not a type
            f"{source} does not say how its PST layers are built: load one that add_pst's model saved"
        )
    check_model_config({"levels": levels, "options": options}, source)
    return describe(levels, choices, options), settings
