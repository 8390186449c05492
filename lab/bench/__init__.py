"""Speed and memory, side by side in one process: the figures are ratios, and every one says where it was measured."""

from lab.bench.cases import Case
from lab.bench.plan import CHECK, FULL, QUICK, SUITES, Plan, measure_suite
from lab.bench.roofline import Roofline, measure_roofline
from lab.bench.suites import run_cases, run_models
from pst.profile.flops import Work, count_work
from pst.profile.memory import added_memory, added_memory_cuda
from pst.profile.timing import Timing, interleave

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
    "added_memory",
    "added_memory_cuda",
    "count_work",
    "interleave",
    "measure_roofline",
    "measure_suite",
    "run_cases",
    "run_models",
]
