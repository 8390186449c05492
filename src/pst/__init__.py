"""Pyramid Sparse Transformer: light, plug-and-play fusion of feature-pyramid levels.

The public names are loaded when first used (PEP 562), so that `pst --help` need not wait for torch. They load torch
and nothing heavier; every host library has its own adapter in `pst.integrations`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pst import _moved

__version__ = "0.2.0"

__all__ = [
    "PST",
    "ConvNormAct",
    "PSTBlock",
    "PSTPyramid",
    "PyramidSparseAttention",
    "Selection",
    "__version__",
    "calibrate",
    "control",
    "freeze_except_gate",
    "functional",
    "fuse",
    "gate_parameters",
    "modules",
    "record_selection",
    "set_fusion",
    "set_gate",
    "set_max_tokens",
    "set_options",
    "set_selection",
    "set_topk",
    "stochastic_max_tokens",
    "stochastic_topk",
    "track_fine_statistics",
    "uncalibrate",
    "use_max_tokens",
    "use_topk",
]

_moved.install()

if TYPE_CHECKING:
    from pst import control, functional, modules
    from pst.control import (
        Selection,
        calibrate,
        freeze_except_gate,
        fuse,
        gate_parameters,
        record_selection,
        set_fusion,
        set_gate,
        set_max_tokens,
        set_options,
        set_selection,
        set_topk,
        stochastic_max_tokens,
        stochastic_topk,
        track_fine_statistics,
        uncalibrate,
        use_max_tokens,
        use_topk,
    )
    from pst.modules import PST, ConvNormAct, PSTBlock, PSTPyramid, PyramidSparseAttention
else:
    _SUBMODULES = ("control", "functional", "modules")
    _LAYERS = ("PST", "ConvNormAct", "PSTBlock", "PSTPyramid", "PyramidSparseAttention")

    def __getattr__(name: str) -> object:
        """Load a public name on first use; from then on it is an ordinary attribute."""
        if name in _SUBMODULES or f"pst.{name}" in _moved.MOVED:
            return import_module(f"pst.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'pst' has no attribute {name!r}")
        home = "pst.modules" if name in _LAYERS else "pst.control"
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
