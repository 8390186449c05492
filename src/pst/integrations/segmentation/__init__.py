"""Semantic segmentation on any hierarchical timm backbone, named as segmentation_models_pytorch users expect."""

from pst.io.versions import check_installed

check_installed("pst.integrations.segmentation", "huggingface_hub", "timm")

from pst.integrations.segmentation.decoder import SegmentationDecoder  # noqa: E402  # a clear error comes first
from pst.integrations.segmentation.heads import ArgMax, build_activation  # noqa: E402
from pst.integrations.segmentation.model import PSTSegmenter, register_smp  # noqa: E402

__all__ = ["ArgMax", "PSTSegmenter", "SegmentationDecoder", "build_activation", "register_smp"]
