"""What a training and a model cost: peak memory and operations."""

from __future__ import annotations

import copy
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pst.profile.memory import high_water, reset_high_water


@contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """Most memory in the with block, in 10⁶ bytes, as the one item of the list once the block ends.

    On "cuda" what PyTorch's allocator held; on the CPU the process's resident set, framework and data included. Where
    the system cannot reset its high-water mark (only Linux can) that is the process's since it began.
    """
    peak = [0.0]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        reset_high_water()
    yield peak
    if device == "cuda":
        peak[0] = torch.cuda.max_memory_allocated() / 1e6
    elif sys.platform == "linux":
        peak[0] = high_water() / 1e6
    else:
        peak[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def count_gflops(model: nn.Module, inputs: Any) -> float:
    """10⁹ operations of one forward pass on the CPU, a multiply-add being two, both products of attention included."""
    model = copy.deepcopy(model).cpu().eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # MATH: attention as the two products it is
        model(inputs)
    return counter.get_total_flops() / 1e9
