"""PST on stock Ultralytics (tested with 8.4.x), without a fork.

`register` teaches Ultralytics' YAML parser the ``PST`` row and the bundled model names; `YOLO` is Ultralytics' own
class with that done. Ultralytics is AGPL-3.0: this is the one part of pst that imports it.
"""

from pst.integrations.ultralytics.convert import convert_checkpoint, read_checkpoint
from pst.integrations.ultralytics.evaluate import SweepRow, sweep
from pst.integrations.ultralytics.flops import gflops
from pst.integrations.ultralytics.layer import PSTRow
from pst.integrations.ultralytics.neck import pst_neck
from pst.integrations.ultralytics.plugin import register, unregister
from pst.integrations.ultralytics.portable import Checkpoint
from pst.integrations.ultralytics.size import ModelSize, measure
from pst.integrations.ultralytics.yolo import YOLO
from pst.integrations.ultralytics.zoo import ZooModel, bundled_models, model_zoo

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
