"""Semantic segmentation on any hierarchical timm backbone, named as segmentation_models_pytorch users expect."""

from pst.integrations.segmentation.decoder import SegmentationDecoder
from pst.integrations.segmentation.heads import ArgMax, build_activation
from pst.integrations.segmentation.model import PSTSegmenter, register_smp

__all__ = ["ArgMax", "PSTSegmenter", "SegmentationDecoder", "build_activation", "register_smp"]
