"""Ways of evaluating a trained model: from a study's YAML, by name, and names back into tables."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VARIANT_DEFAULTS: dict[str, Any] = {
    "k": 0, "fusion": "gate", "selection": "mean", "gate": None, "imgsz": None, "use": "trained",
    "max_tokens": None,
}  # fmt: skip
_USES = ("trained", "calibrated", "tuned")
ALL_TOKENS = 10**6  # k = M
_VARIANT = re.compile(r"k(?P<k>(\d+|M)(,(\d+|M))*)(-m(?P<bound>\d+))?(-(?P<way>[^@]+))?(@(?P<imgsz>\d+))?")


@dataclass(frozen=True)
class Variant:
    """One way of evaluating a trained model.

    Attributes:
        k: Refined tokens, `ALL_TOKENS` for all; or one such number for each attention layer, in the order of
            `pst.record_selection`.
        fusion: "gate" or "refine".
        selection: Name of a selection rule; "random:1" is the random control with seed 1.
        gate: Constant that takes the learned gate's place, in (0, 1); None for the learned gate.
        imgsz: Longest side of the images; None for that of the training.
        use: "trained" weights as they are; "calibrated" with separate statistics of the fine map from unlabelled
            training images; "tuned" with these and the gate trained for one more epoch.
        max_tokens: Bound on the coarse tokens; None for no bound.
    """

    k: int | tuple[int, ...]
    fusion: str
    selection: str
    gate: float | None
    imgsz: int | None
    use: str
    max_tokens: int | None = None

    @property
    def name(self) -> str:
        """Short, unique among a cell's variants: "k8-refine-random:1-calibrated@640", "k8,0-gate", "k0-m16"."""
        size = "" if self.imgsz is None else f"@{self.imgsz}"
        bound = [] if self.max_tokens is None else [f"m{self.max_tokens}"]
        if self.k == 0:
            return "-".join(["k0", *bound]) + size
        ks = self.k if isinstance(self.k, tuple) else (self.k,)
        parts = ["k" + ",".join("M" if k == ALL_TOKENS else str(k) for k in ks), *bound, self.fusion]
        parts += [f"{self.gate:g}"] if self.gate is not None else []
        parts += [self.selection] if self.selection != "mean" else []
        parts += [self.use] if self.use != "trained" else []
        return "-".join(parts) + size


def variants(entry: Mapping[str, Any], path: Path) -> Iterable[Variant]:
    """All combinations of one entry of ``evaluations``, whose values may be lists."""
    if unknown := entry.keys() - _VARIANT_DEFAULTS.keys():
        raise ValueError(f"{path}: an evaluation has {sorted(unknown)}; known are {sorted(_VARIANT_DEFAULTS)}")
    full = {**_VARIANT_DEFAULTS, **entry}
    for values in itertools.product(*(many(value) for value in full.values())):
        fields = dict(zip(full, values, strict=True))
        if fields["use"] not in _USES:
            raise ValueError(f"{path}: use must be one of {list(_USES)}, got {fields['use']!r}")
        bound = None if fields["max_tokens"] == "all" else fields["max_tokens"]
        if bound is not None and (type(bound) is not int or bound < 1):
            raise ValueError(f'{path}: max_tokens of an evaluation is a number from 1 or "all", got {bound!r}')
        yield Variant(**{**fields, "k": _topk(fields["k"], path), "max_tokens": bound})


def _topk(value: Any, path: Path) -> int | tuple[int, ...]:
    """One alternative for k."""
    if not isinstance(value, list):
        return _number(value, path)
    ks = tuple(_number(k, path) for k in value)
    if len(set(ks)) < 2:
        raise ValueError(
            f"{path}: k of an evaluation is {value} for its attention layers: for one k in all of them write the "
            "number alone, and for several values of k one list, not a list in a list"
        )
    return ks


def _number(value: Any, path: Path) -> int:
    if value == "all":
        return ALL_TOKENS
    if not isinstance(value, int) or value < 0:
        raise ValueError(f'{path}: k of an evaluation is a number from 0, "all", or a list of these, got {value!r}')
    return value


def many(value: Any) -> list[Any]:
    """A value that may be a list of alternatives, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def ways(evaluations: Mapping[str, Any]) -> dict[int | None, dict[str, dict[str, str]]]:
    """Image size -> way -> k -> name of the variant, for every variant with k > 0.

    One k in some layers alone is a way of its own, "k8,0-refine" the way "refine (k, 0)" with k "8"; several different
    ones are a k of their own, "8,32".
    """
    found: dict[int | None, dict[str, dict[str, str]]] = {}
    for name in evaluations:
        match = _VARIANT.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not a name of a variant")
        if match["way"] is not None:
            imgsz = None if match["imgsz"] is None else int(match["imgsz"])
            k, layers = _split(match["k"])
            bound = "" if match["bound"] is None else f", {match['bound']} tokens"
            found.setdefault(imgsz, {}).setdefault(match["way"] + bound + layers, {})[k] = name
    return found


def _split(k: str) -> tuple[str, str]:
    """ "8,0" -> ("8", " (k, 0)"): the one k, and the layers that have it; "8" and "8,32" are as they are."""
    ks = k.split(",")
    used = {one for one in ks if one != "0"}
    if len(ks) == 1 or len(used) > 1:
        return k, ""
    return used.pop(), " (" + ", ".join("0" if one == "0" else "k" for one in ks) + ")"


def k_order(k: str) -> list[float]:
    """To sort the texts of k by: "8" before "8,32" before "16" before "M"."""
    return [float("inf") if one == "M" else int(one) for one in k.split(",")]
