"""PST on stock Ultralytics (8.4.167 to 8.4.x), without a fork.

`register` teaches Ultralytics' YAML parser the ``PST`` row and the bundled model names; `YOLO` is Ultralytics' own
class with that done. Ultralytics is AGPL-3.0: this is the one part of pst that imports it.
"""

from pst.io.versions import check_installed

check_installed("pst.integrations.ultralytics", "ultralytics", "ultralytics")

from pst.integrations.ultralytics.convert import convert_checkpoint, read_checkpoint  # noqa: E402  # a clear error comes first
from pst.integrations.ultralytics.evaluate import SweepRow, sweep  # noqa: E402
from pst.integrations.ultralytics.flops import gflops  # noqa: E402
from pst.integrations.ultralytics.layer import PSTRow  # noqa: E402
from pst.integrations.ultralytics.neck import pst_neck  # noqa: E402
from pst.integrations.ultralytics.plugin import register, unregister  # noqa: E402
from pst.integrations.ultralytics.portable import Checkpoint  # noqa: E402
from pst.integrations.ultralytics.size import ModelSize, measure  # noqa: E402
from pst.integrations.ultralytics.yolo import YOLO  # noqa: E402
from pst.integrations.ultralytics.zoo import ZooModel, bundled_models, model_zoo  # noqa: E402

__all__ = [
    "YOLO",
    "Checkpoint",
    "ModelSize",
    "PSTRow",
    "SweepRow",
    "ZooModel",
    "bundled_models",
    "convert_checkpoint",
    "gflops",
    "measure",
    "model_zoo",
    "pst_neck",
    "read_checkpoint",
    "register",
    "sweep",
    "unregister",
]
