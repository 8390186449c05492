"""Speed and memory, side by side in one process: the figures are ratios, and every one says where it was measured."""

from pst.bench.memory import peak_memory
from pst.bench.roofline import Roofline, measure_roofline
from pst.bench.suites import SIZES, run_models, run_modules
from pst.bench.timing import Timing, interleave

__all__ = ["SIZES", "Roofline", "Timing", "interleave", "measure_roofline", "peak_memory", "run_models", "run_modules"]
