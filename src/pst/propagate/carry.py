"""What stands at the places of remembered pictures, carried to the places of another one: one call of attention.

Queries are features of the new picture, keys those of the remembered ones, values whatever is to be carried: labels,
pixels, coordinates. Coarse keys and values are the means of their children (docs/method.md, "Aligned levels").
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional import pyramid_sparse_attention
from pst.functional.grid import child_means
from pst.functional.selection import SelectionRule, Window

WAVES = (2.0, 5.0)  # radians per height of the picture; no two in a small ratio, or far places would look near


def carry(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    topk: int = 8,
    ratio: int = 4,
    scale: float = 60.0,
    selection: str | SelectionRule = Window(24),  # noqa: B008 frozen
    observer: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Carry values from one or several remembered pictures to another one.

    Each position of the new picture takes the softmax-weighted mean of all remembered ones, weighted by the cosine of
    their features: coarse positions as a whole, and the ``topk`` best of them position by position (``refine``).

    Args:
        query: Features of the new picture, (C, H, W).
        key: Features of n remembered ones, (n, C, Hf, Wf), dtype and device of ``query``.
        value: What they hold, (n, K, Hf, Wf), any K.
        topk: k, coarse positions in whose place their children are attended; 0 is none, more than there are all.
        ratio: Fine positions per coarse one, along each axis; at the end of an axis fewer.
        scale: Factor on the cosines: how sharp.
        selection: Which coarse positions, see `pst.functional.selection`.
        observer: As in `pst.functional.pyramid_sparse_attention`.

    Returns:
        (K, H, W).

    Raises:
        ValueError: Sizes do not fit.

    Examples:
        >>> there = torch.eye(4).view(1, 4, 2, 2)  # four places that look different
        >>> carry(there[0].flip(2), there, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), ratio=1).round()
        tensor([[[2., 1.],
                 [4., 3.]]])
    """
    if key.ndim != 4 or query.ndim != 3 or query.shape[0] != key.shape[1]:
        raise ValueError(f"query must be (C, H, W), key (n, C, Hf, Wf), got {tuple(query.shape)}, {tuple(key.shape)}")
    if value.ndim != 4 or (value.shape[0], *value.shape[2:]) != (key.shape[0], *key.shape[2:]):
        raise ValueError(f"value must be (n, K, Hf, Wf) for key {tuple(key.shape)}, got {tuple(value.shape)}")
    coarse = math.ceil(key.shape[2] / ratio), math.ceil(key.shape[3] / ratio)
    key = F.normalize(key, dim=1)
    coarse_key = F.normalize(child_means(key, coarse), dim=1)
    width = math.ceil(query.shape[0] / 16) * 16
    queries, keys, coarse_keys = (_tokens(t, width) for t in (F.normalize(query, dim=0)[None], key, coarse_key))
    with torch.autocast(query.device.type, enabled=False):  # weights of many keys are too fine for 16 bits
        out = pyramid_sparse_attention(
            queries,
            coarse_keys,
            _tokens(child_means(value, coarse)),
            (keys, _tokens(value)),
            topk=topk,
            fusion="refine",
            selection=selection,
            scale=scale,
            observer=observer if topk > 0 else None,
        )
    return out[0, 0].permute(2, 0, 1)


def with_place(features: Tensor, strength: float, waves: tuple[float, ...] = WAVES) -> Tensor:
    """Features with their place in the picture beside them, so that the near is preferred to the far that looks alike.

    The place is sines and cosines of (y, x), whose cosine falls with the distance as a bell does.

    Args:
        features: (…, C, H, W) of unit length along C.
        strength: Length of the place; 0 leaves ``features`` as they are.
        waves: Radians per height of the picture; large ones tell near places apart.

    Returns:
        (…, C + 4·len(waves), H, W).
    """
    if strength == 0:
        return features
    height, width = features.shape[-2:]
    y = torch.linspace(0, 1, height, dtype=features.dtype, device=features.device)[:, None].expand(height, width)
    x = torch.linspace(0, width / height, width, dtype=features.dtype, device=features.device).expand(height, width)
    angles = torch.stack([axis * wave for wave in waves for axis in (y, x)])
    place = torch.cat([angles.sin(), angles.cos()]) * (strength / math.sqrt(len(angles)))
    return torch.cat([features, place.expand(*features.shape[:-3], -1, -1, -1)], -3)


def _tokens(maps: Tensor, width: int = 0) -> Tensor:
    """(n, C, H, W) -> (1, 1, n·H, W, C), the maps one below the other; zeros behind the channels up to ``width``."""
    rows = maps.permute(0, 2, 3, 1).flatten(0, 1).contiguous()
    return F.pad(rows, (0, max(0, width - rows.shape[-1])))[None, None]
