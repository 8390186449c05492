"""Pyramid Sparse Transformer: light, plug-and-play fusion of feature-pyramid levels.

Importing this loads torch and nothing heavier; every host library has its own adapter in `pst.integrations`.
"""

from pst import checkpoint, functional
from pst.control import Selection, record_selection, set_fusion, set_topk, use_topk
from pst.modules import PST, ConvNormAct, PSTBlock, PyramidSparseAttention

__version__ = "0.1.0"

__all__ = [
    "PST",
    "ConvNormAct",
    "PSTBlock",
    "PyramidSparseAttention",
    "Selection",
    "__version__",
    "checkpoint",
    "functional",
    "record_selection",
    "set_fusion",
    "set_topk",
    "use_topk",
]
