"""Acts on every PST layer inside any model: k, fusion, selection, fine statistics, training with random k, folding."""

from pst.control.folding import fuse
from pst.control.layers import attention_layers
from pst.control.recording import Selection, record_selection
from pst.control.settings import (
    set_fusion,
    set_gate,
    set_max_tokens,
    set_options,
    set_selection,
    set_topk,
    use_max_tokens,
    use_topk,
)
from pst.control.statistics import calibrate, track_fine_statistics, uncalibrate
from pst.control.training import freeze_except_gate, gate_parameters, stochastic_max_tokens, stochastic_topk

__all__ = [
    "Selection",
    "attention_layers",
    "calibrate",
    "freeze_except_gate",
    "fuse",
    "gate_parameters",
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
