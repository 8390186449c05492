"""What may be set on an attention layer at any time, in one place.

A new option is a field of `Settings`, a key of `Options`, and the line that reads it. `PST`, `PSTBlock`, `PSTPyramid`
and the adapters pass ``**options`` on, and files hold whatever `Settings.plain` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict

from pst.functional.attention import Fusion
from pst.functional.checks import check_fusion, check_max_tokens, check_topk
from pst.functional.selection import SelectionRule, check_selection, from_plain, to_plain

Similarity = Literal["dot", "cosine"]
SIMILARITIES = ("dot", "cosine")


class Options(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments."""

    topk: int
    fusion: Fusion
    selection: str | SelectionRule
    similarity: Similarity
    aligned: bool
    max_tokens: int | None


class LayerOptions(Options, total=False):
    """What `pst.PST` takes beside channels and convolutions."""

    depth: int
    mlp_ratio: float
    expansion: float
    head_dim: int
    wiring: str
    upsample: str


class PyramidOptions(LayerOptions, total=False):
    """What `pst.PSTPyramid` takes beside channels, convolutions and extra blocks; its ``topk`` may be one a level."""

    share: str
    bottom_up: bool


def split(options: Mapping[str, Any], kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that a class above has, and the others, which an adapter hands to its host."""
    own = {name: value for name, value in options.items() if name in kind.__optional_keys__}
    return own, {name: value for name, value in options.items() if name not in own}


def check_names(options: Iterable[str], kind: Any = Options) -> None:
    """Raise TypeError for a name that is none of the TypedDict ``kind``."""
    known = sorted(kind.__optional_keys__)
    if unknown := [str(name) for name in options if name not in known]:
        raise TypeError(f"PST layers have no option {', '.join(unknown)}: choose among {', '.join(known)}")


@dataclass(frozen=True)
class Settings:
    """How one attention layer attends; checked when made.

    Attributes:
        topk: k, coarse tokens per image and head whose children are attended; more than M means all; 0 is none.
        fusion: "gate" (the paper; has parameters) or "refine" (has none).
        selection: "mean" (the paper), "mass", "nucleus", "window", "query", "nearest", "random", or a rule of
            `pst.functional.selection` with settings of its own; or "gumbel" (training studies: noise while training,
            none in eval mode).
        similarity: What a logit is: "dot" (the paper), the product of query and key over √d; or "cosine", that of both
            at unit length, times a scale that each head learns. Only a layer that was built with it has the scale.
        aligned: Every coarse token is the mean of its children, so that coarse attention is a first-order picture of
            fine attention (docs/method.md, "Aligned levels"). Of the coarser map then the size alone counts; `pst.PST`
            adds it, resized, to the finer one. A layer stays what it was built as.
        max_tokens: Most coarse tokens that queries attend to; more are averaged (docs/method.md, "Fewer coarse
            tokens"), so that cost grows with the number of queries alone. None means no bound.

    Raises:
        TypeError: ``topk`` is not an integer, ``selection`` no rule, ``aligned`` no bool.
        ValueError: ``topk`` < 0, or an option is unknown.

    Examples:
        >>> attention = pst.PyramidSparseAttention(64, num_heads=2)
        >>> attention.settings = Settings(topk=8, fusion="refine", max_tokens=100)
        >>> attention.settings.changed({"topk": 0}).topk
        0
    """

    topk: int = 0
    fusion: Fusion = "gate"
    selection: str | SelectionRule = "mean"
    similarity: Similarity = "dot"
    aligned: bool = False
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "topk", check_topk(self.topk))
        check_fusion(self.fusion)
        check_selection(self.selection)
        if self.similarity not in SIMILARITIES:
            raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {self.similarity!r}")
        object.__setattr__(self, "max_tokens", check_max_tokens(self.max_tokens))
        if not isinstance(self.aligned, bool):
            raise TypeError(f"aligned must be True or False, got {self.aligned!r}")

    def plain(self) -> dict[str, Any]:
        """Names, numbers and lists alone, for files; a rule of the user's own stays what it is."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"selection": to_plain(self.selection)}

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """With other values for some options, as `plain` or JSON gave them.

        Raises:
            TypeError: ``values`` is not a mapping, has a name that is not an option, or a value of the wrong type.
            ValueError: A value is wrong.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"settings are a mapping, got a {type(values).__name__}")
        check_names(values)
        if "selection" in values:
            values = {**values, "selection": from_plain(values["selection"])}
        return replace(self, **values)
