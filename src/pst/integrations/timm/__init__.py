"""timm models with PST: importing this registers ``pst_<name>`` for every model of timm.

>>> import timm, pst.integrations.timm
>>> model = timm.create_model("pst_resnet18", num_classes=10)
>>> extractor = timm.create_model("pst_resnet18", features_only=True, out_indices=(2, 3, 4))
"""

from pst.io.versions import check_installed

check_installed("pst.integrations.timm", "timm", "timm")

from pst.integrations.timm.classifier import PSTClassifier  # noqa: E402  # a clear error comes first
from pst.integrations.timm.entrypoints import register  # noqa: E402
from pst.integrations.timm.features import PSTFeatures  # noqa: E402
from pst.integrations.timm.size import ModelSize, measure  # noqa: E402

__all__ = ["ModelSize", "PSTClassifier", "PSTFeatures", "measure", "register"]
