"""RT-DETR, RT-DETRv2 and D-FINE of Hugging Face transformers with PST in place of their top-down fusion blocks.

Importing this lets transformers' ``AutoConfig`` and ``AutoModelForObjectDetection`` load them, ``pipeline`` as well.

    from transformers import AutoModelForObjectDetection
    from pst.integrations.transformers import add_pst
    model = add_pst(AutoModelForObjectDetection.from_pretrained("ustc-community/dfine-small-coco"), levels=[16, 8])
"""

from pst.integrations.transformers.host import check_host

check_host()

from pst.integrations.transformers.add import add_pst  # noqa: E402  # a clear error comes first
from pst.integrations.transformers.config import PSTDFineConfig, PSTRTDetrConfig, PSTRTDetrV2Config  # noqa: E402
from pst.integrations.transformers.model import (  # noqa: E402
    PSTDFineForObjectDetection,
    PSTRTDetrForObjectDetection,
    PSTRTDetrV2ForObjectDetection,
)
from pst.integrations.transformers.outputs import Predictions  # noqa: E402
from pst.integrations.transformers.register import register  # noqa: E402
from pst.integrations.transformers.size import PUBLISHED, ModelSize, measure  # noqa: E402

__all__ = [
    "PUBLISHED",
    "ModelSize",
    "PSTDFineConfig",
    "PSTDFineForObjectDetection",
    "PSTRTDetrConfig",
    "PSTRTDetrForObjectDetection",
    "PSTRTDetrV2Config",
    "PSTRTDetrV2ForObjectDetection",
    "Predictions",
    "add_pst",
    "measure",
]

register()
