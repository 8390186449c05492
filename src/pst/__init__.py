"""Pyramid Sparse Transformer: light, plug-and-play fusion of feature-pyramid levels.

The public names are loaded when first used (PEP 562), so that `pst --help` need not wait for torch. They load torch
and nothing heavier; every host library has its own adapter in `pst.integrations`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "PST",
    "ConvNormAct",
    "PSTBlock",
    "PyramidSparseAttention",
    "Selection",
    "__version__",
    "checkpoint",
    "control",
    "functional",
    "modules",
    "record_selection",
    "set_fusion",
    "set_topk",
    "use_topk",
]

if TYPE_CHECKING:
    from pst import checkpoint, control, functional, modules
    from pst.control import Selection, record_selection, set_fusion, set_topk, use_topk
    from pst.modules import PST, ConvNormAct, PSTBlock, PyramidSparseAttention
else:
    _SUBMODULES = ("checkpoint", "control", "functional", "modules")
    _HOME = {
        **dict.fromkeys(("PST", "ConvNormAct", "PSTBlock", "PyramidSparseAttention"), "pst.modules"),
        **dict.fromkeys(("Selection", "record_selection", "set_fusion", "set_topk", "use_topk"), "pst.control"),
    }

    def __getattr__(name: str) -> object:
        """Load a public name on first use; from then on it is an ordinary attribute."""
        if name in _SUBMODULES:
            return import_module(f"pst.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'pst' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
