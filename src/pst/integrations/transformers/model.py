"""RT-DETR, RT-DETRv2 and D-FINE of transformers with PST in place of top-down fusion blocks."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

from transformers import DFineForObjectDetection, RTDetrForObjectDetection, RTDetrV2ForObjectDetection

from pst.control.layers import find_attention
from pst.integrations.transformers.config import PSTDFineConfig, PSTRTDetrConfig, PSTRTDetrV2Config
from pst.integrations.transformers.fusion import install, start_fresh
from pst.io.layer_settings import plain_settings, refuse_folded
from pst.io.model_config import at_most

_LOG = logging.getLogger(__name__)


class WithPST:
    """What the detectors here add to their hosts; inherit from it before the host's class.

    Attributes:
        host: The class of transformers.
    """

    host: ClassVar[Any]
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # pyright: ignore[reportCallIssue]  # the host's
        self.finish()

    def finish(self) -> None:
        """Put the PST layers in; the last step of building, here and in `add_pst`."""
        self.loss_type = self.host.__name__  # which transformers derives from the name of the class
        install(self)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **options: Any
    ) -> Any:
        """As in transformers, of a model with PST, or of a plain one: its PST layers then start fresh, which is logged.

        Options that begin with ``pst_`` replace those of the configuration, see `PSTConfig`; those that ``pst_options``
        names replace what was set on the layers since as well.

        Raises:
            OSError: There is no such folder or repository, or it cannot be reached.
            TypeError: Levels or options are of another type.
            ValueError: It describes no model with PST that can be built.
        """
        source = pretrained_model_name_or_path
        load: Any = super().from_pretrained  # pyright: ignore[reportAttributeAccessIssue]  # the host's
        local = None if source is None else Path(source, "model.safetensors")
        with at_most(local.stat().st_size, local) if local is not None and local.is_file() else nullcontext():
            model, info = load(source, *args, output_loading_info=True, **options)
        lacking = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        if fresh := start_fresh(model, lacking):
            _LOG.warning("%s has no weights for all PST layers: left fresh are %s", source, ", ".join(fresh))
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> Any:
        """As in transformers; ``config.json`` gets what is set on the PST layers by now.

        Raises:
            TypeError: A PST layer has a selection rule that JSON cannot describe. Then nothing is written.
            ValueError: The model is fused: what ``from_pretrained`` builds would not take its weights.
        """
        model: Any = self
        refuse_folded(model)
        self.config.pst_settings = plain_settings(model)
        layers = find_attention(model)
        self.config.pst_calibrated = [name for name, layer in layers.items() if layer.fine_statistics is not None]
        return super().save_pretrained(save_directory, *args, **options)  # pyright: ignore[reportAttributeAccessIssue]


class PSTRTDetrForObjectDetection(WithPST, RTDetrForObjectDetection):
    """RT-DETR with PST; arguments as in `transformers.RTDetrForObjectDetection`.

    Examples:
        >>> model = PSTRTDetrForObjectDetection(PSTRTDetrConfig(pst_levels=[16]))
        >>> pst.set_topk(model, 8)
    """

    config_class = PSTRTDetrConfig
    host = RTDetrForObjectDetection


class PSTRTDetrV2ForObjectDetection(WithPST, RTDetrV2ForObjectDetection):
    """RT-DETRv2 with PST; arguments as in `transformers.RTDetrV2ForObjectDetection`.

    Examples:
        >>> model = PSTRTDetrV2ForObjectDetection(PSTRTDetrV2Config(pst_levels=[16]))
        >>> pst.set_topk(model, 8)
    """

    config_class = PSTRTDetrV2Config
    host = RTDetrV2ForObjectDetection


class PSTDFineForObjectDetection(WithPST, DFineForObjectDetection):
    """D-FINE with PST; arguments as in `transformers.DFineForObjectDetection`.

    Examples:
        >>> model = PSTDFineForObjectDetection(PSTDFineConfig(pst_levels=[16]))
        >>> pst.set_topk(model, 8)
    """

    config_class = PSTDFineConfig
    host = DFineForObjectDetection


MODELS: tuple[Any, ...] = (PSTRTDetrForObjectDetection, PSTRTDetrV2ForObjectDetection, PSTDFineForObjectDetection)
