"""torchvision's detectors on any timm or torchvision backbone, with a PST pyramid in place of the FPN."""

from pst.integrations.torchvision.backbone import PyramidBackbone, pst_backbone
from pst.integrations.torchvision.detectors import anchors, faster_rcnn, fcos, mask_rcnn, retinanet
from pst.integrations.torchvision.outputs import Detections, RawHeads
from pst.integrations.torchvision.pst_detector import PSTDetector

__all__ = [
    "Detections",
    "PSTDetector",
    "PyramidBackbone",
    "RawHeads",
    "anchors",
    "faster_rcnn",
    "fcos",
    "mask_rcnn",
    "pst_backbone",
    "retinanet",
]
