"""PST in a detector that is there already."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from pst.control.settings import set_selection
from pst.functional.selection import check_selection
from pst.integrations.transformers.config import check_config
from pst.integrations.transformers.fusion import fused_blocks
from pst.integrations.transformers.model import MODELS, WithPST

_LOG = logging.getLogger(__name__)


def add_pst(model: PreTrainedModel, levels: Sequence[int] | None = None, **options: Any) -> Any:
    """A copy of a detector of transformers whose top-down fusion blocks are PST.

    All other weights are the model's, bit for bit, with their device, dtype, mode and ``requires_grad``. The PST layers
    start fresh, which is logged, and learn: train the copy before use. The model itself is not changed.

    Args:
        model: `RTDetrForObjectDetection`, `RTDetrV2ForObjectDetection` or `DFineForObjectDetection` of transformers.
        levels: Strides of the finer map of each fusion that becomes PST, e.g. ``[16]`` for that of strides 32 and 16;
            None means all.
        **options: Those of `pst.PST`: ``topk``, ``depth``, ``wiring``, ``max_tokens`` and the like, see
            `pst.modules.settings.LayerOptions`.

    Returns:
        `PSTRTDetrForObjectDetection`, `PSTRTDetrV2ForObjectDetection` or `PSTDFineForObjectDetection`.

    Raises:
        TypeError: ``model`` is no such detector, or levels or a selection rule are of another type.
        ValueError: There is no such level or option, or no PST layer can be built with these and the model's width.

    Examples:
        >>> from transformers import DFineConfig, DFineForObjectDetection
        >>> type(add_pst(DFineForObjectDetection(DFineConfig()), levels=[16], topk=8)).__name__
        'PSTDFineForObjectDetection'
    """
    kind = _kind(model)
    selection = options.pop("selection", "mean")
    check_selection(selection)
    config = copy.deepcopy(model.config)
    config.__class__ = kind.config_class
    config.pst_levels, config.pst_options = levels, options
    config.pst_settings = config.pst_calibrated = None
    check_config(config)
    fused: Any = copy.deepcopy(model, {id(model.config): config})  # its parts share the configuration, and go on to
    fused.__class__ = kind
    fused.finish()
    set_selection(fused, selection)
    _LOG.warning("PST in a %s: left fresh are %s", kind.host.__name__, ", ".join(fused_blocks(fused)))
    return fused


def _kind(model: object) -> Any:
    """The class here for a detector of transformers."""
    for kind in MODELS:
        if type(model) is kind.host:
            return kind
    name = type(model).__name__
    if isinstance(model, WithPST):
        raise TypeError(f"{name} has PST already: give add_pst the plain model, or change this one's with pst.set_topk")
    hosts = ", ".join(kind.host.__name__ for kind in MODELS)
    raise TypeError(f"add_pst takes a detector of transformers ({hosts}), got {name}")
