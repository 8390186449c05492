"""The necks that builders of detectors and segmenters offer, and which options fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

Neck = Literal["pst", "fpn", "none"]


def neck_arguments(neck: str, topk: int | Sequence[int], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """``topk`` and the other options of a neck in one.

    Args:
        neck: "pst" for `PSTPyramid`, "fpn" for torchvision's FeaturePyramidNetwork, or "none" for `Laterals`.
        topk: k of the PST layers; 0 for the others.
        options: More arguments of the neck.

    Raises:
        ValueError: There is no such neck, or it has no such option.

    Examples:
        >>> neck_arguments("pst", 8, {"depth": 2})
        {'topk': 8, 'depth': 2}
    """
    given = dict(options or {})
    if neck not in get_args(Neck):
        raise ValueError(f"neck must be one of {', '.join(get_args(Neck))}, got {neck!r}")
    if neck == "pst":
        return {"topk": topk, **given}
    if topk != 0:
        raise ValueError(f'topk is an option of neck="pst"; neck="{neck}" has no attention, got topk={topk}')
    if neck == "none" and given:
        raise ValueError(f'neck="none" has no options, got neck_options={given}')
    if given.keys() - {"norm_layer"}:
        raise ValueError(f'neck="fpn" has the option norm_layer alone, got neck_options={given}')
    return given
