"""PST in a LibreYOLO model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from libreyolo import LibreYOLO9, LibreYOLO9P2

from pst.integrations.libreyolo.models import LibreYOLO9P2PST, LibreYOLO9PST, like

_FAMILIES: dict[type[LibreYOLO9], type[LibreYOLO9]] = {LibreYOLO9: LibreYOLO9PST, LibreYOLO9P2: LibreYOLO9P2PST}


def add_pst(
    model: LibreYOLO9, *, levels: Sequence[int] | None = None, **options: Any
) -> LibreYOLO9PST | LibreYOLO9P2PST:
    """A copy of a LibreYOLO detector with PST in the place of the blocks that fuse its neck from coarse to fine.

    Every other weight is the host's, bit for bit; the PST layers start fresh, so the model has to be trained before
    it detects anything. Each layer's x is the host's concatenated map, as in the paper's detectors, and its upper the
    coarser map that was upsampled into it: P5 at stride 16, and the map fused there at stride 8.

    Args:
        model: `LibreYOLO9` or `LibreYOLO9P2`, of any size; left as it is.
        levels: Strides of the finer maps whose fusion becomes PST's, among 16 and 8, and 4 for YOLO9-P2; None is all.
        **options: Those of `pst.PST` save ``wiring``: ``topk``, ``depth``, ``max_tokens``, …. ``head_dim`` is by
            default the widest up to 32 that divides a layer's hidden width.

    Returns:
        A LibreYOLO model with the methods of the host's: predict, train, val, save, export.

    Raises:
        TypeError: ``model`` is something else, ``levels`` no list, or an option unknown or of the wrong type.
        ValueError: ``model`` is quantized, a level is not there, or an option has a value that it cannot have.

    Examples:
        >>> from libreyolo import LibreYOLO9
        >>> type(add_pst(LibreYOLO9(None, size="t", device="cpu"), topk=8)).__name__
        'LibreYOLO9PST'
    """
    family = _FAMILIES.get(type(model))
    if family is None:
        raise TypeError(
            f"add_pst takes a LibreYOLO9 or a LibreYOLO9P2, got a {type(model).__name__}: docs/libreyolo.md says which "
            "other detectors of LibreYOLO can have PST, and what is in the way"
        )
    if model.quant_info() is not None:
        raise ValueError("add_pst takes a model that was not quantized, got a quantized one: add PST first")
    made: Any = like(model, family, levels=levels, pst_options=options)
    network: Any = copy.deepcopy(model.model)
    for place in made.pst_places:
        fusion = getattr(made.model.neck, place.block)
        setattr(network.neck, place.block, fusion.to(next(network.parameters())).train(network.training))
    made.model = network
    return made
