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
    "PSTPyramid",
    "PyramidSparseAttention",
    "Selection",
    "__version__",
    "calibrate",
    "checkpoint",
    "control",
    "freeze_except_gate",
    "functional",
    "fuse",
    "gate_parameters",
    "modules",
    "record_selection",
    "set_fusion",
    "set_gate",
    "set_selection",
    "set_topk",
    "stochastic_topk",
    "track_fine_statistics",
    "uncalibrate",
    "use_topk",
]

if TYPE_CHECKING:
    from pst import control, functional, modules
    from pst.io import checkpoints as checkpoint
    from pst.control.statistics import calibrate, track_fine_statistics, uncalibrate
    from pst.control import (
        Selection,
        record_selection,
        set_fusion,
        set_gate,
        set_selection,
        set_topk,
        use_topk,
    )
    from pst.control.folding import fuse
    from pst.modules import PST, ConvNormAct, PSTBlock, PSTPyramid, PyramidSparseAttention
    from pst.control.training import freeze_except_gate, gate_parameters, stochastic_topk
else:
    _SUBMODULES = ("checkpoint", "control", "functional", "modules")
    _HOME = {
        **dict.fromkeys(("PST", "ConvNormAct", "PSTBlock", "PSTPyramid", "PyramidSparseAttention"), "pst.modules"),
        **dict.fromkeys(("Selection", "record_selection", "set_fusion", "set_gate"), "pst.control"),
        **dict.fromkeys(("set_selection", "set_topk", "use_topk"), "pst.control"),
        **dict.fromkeys(("calibrate", "track_fine_statistics", "uncalibrate"), "pst.control.statistics"),
        "fuse": "pst.control.folding",
        **dict.fromkeys(("freeze_except_gate", "gate_parameters", "stochastic_topk"), "pst.control.training"),
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
