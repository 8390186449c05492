"""timm models with PST: importing this registers ``pst_<name>`` for every model of timm.

>>> import timm, pst.integrations.timm
>>> model = timm.create_model("pst_resnet18", num_classes=10)
>>> extractor = timm.create_model("pst_resnet18", features_only=True, out_indices=(2, 3, 4))
"""

from pst.integrations.timm.classifier import PSTClassifier
from pst.integrations.timm.entrypoints import register
from pst.integrations.timm.features import PSTFeatures
from pst.integrations.timm.size import ModelSize, measure

__all__ = ["ModelSize", "PSTClassifier", "PSTFeatures", "measure", "register"]
