"""Speed and memory, side by side in one process: the figures are ratios, and every one says where it was measured."""

from pst.bench.cases import Case
from pst.bench.memory import peak_memory, peak_memory_cuda
from pst.bench.plan import CHECK, FULL, QUICK, SUITES, Plan, measure_suite
from pst.bench.roofline import Roofline, measure_roofline
from pst.bench.suites import run_cases, run_models
from pst.bench.timing import Timing, interleave
from pst.bench.work import Work, count_work

__all__ = [
    "CHECK",
    "FULL",
    "QUICK",
    "SUITES",
    "Case",
    "Plan",
    "Roofline",
    "Timing",
    "Work",
    "count_work",
    "interleave",
    "measure_roofline",
    "measure_suite",
    "peak_memory",
    "peak_memory_cuda",
    "run_cases",
    "run_models",
]
