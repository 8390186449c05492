"""torchvision's detectors on any timm or torchvision backbone, with an FPN, a PST pyramid or no neck."""

from pst.io.versions import check_installed

check_installed("pst.integrations.torchvision", "torchvision", "torchvision")

from pst.integrations.torchvision.backbone import PyramidBackbone, pst_backbone  # noqa: E402  # a clear error comes first
from pst.integrations.torchvision.detectors import anchors, faster_rcnn, fcos, mask_rcnn, retinanet  # noqa: E402
from pst.integrations.torchvision.outputs import Detections, RawHeads  # noqa: E402
from pst.integrations.torchvision.pst_detector import PSTDetector  # noqa: E402

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
