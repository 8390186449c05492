"""What this machine can do at best, measured in the same run as the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pst.profile.flops import Work
from pst.profile.timing import interleave


@dataclass(frozen=True)
class Roofline:
    """Peaks of one device with PyTorch's current number of threads.

    Attributes:
        matmul_gflops: Dense matrix product, 10⁹ floating-point operations per second.
        exp_gops: Exponentials, 10⁹ per second.
        copy_gbs: Bytes read and written by a copy, 10⁹ per second.
    """

    matmul_gflops: float
    exp_gops: float
    copy_gbs: float

    def least_ms(self, work: Work) -> float:
        """Least time of ``work`` in milliseconds: every product at the peak, then every exponential at its rate."""
        return 1e3 * (work.flops / (self.matmul_gflops * 1e9) + work.exponentials / (self.exp_gops * 1e9))


def measure_roofline(device: str = "cpu", dtype: torch.dtype = torch.float32, *, seconds: float = 3.0) -> Roofline:
    """Measure the three peaks.

    Args:
        device: "cpu" or "cuda".
        dtype: Of the matrix product and the copy; exponentials are of float32, as in every softmax.
        seconds: Time to take.
    """
    gpu = torch.device(device).type != "cpu"
    side, cached, copied = (8192, 2**26, 2**28) if gpu else (1536, 2**16, 2**25)
    repeat = 1 if gpu else 64  # on a CPU: numbers that stay in the cache, as in a softmax by rows
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    small, out = torch.randn(cached, device=device), torch.empty(cached, device=device)
    large, target = (torch.empty(copied, device=device, dtype=dtype).fill_(1) for _ in range(2))
    times = interleave(
        {
            "matmul": lambda: torch.mm(a, b),
            "exp": lambda: [torch.exp(small, out=out) for _ in range(repeat)],
            "copy": lambda: target.copy_(large),
        },
        seconds=seconds,
    )
    taken = {name: timing.low / 1e3 for name, timing in times.items()}  # a peak: the fast runs
    return Roofline(
        matmul_gflops=2 * side**3 / taken["matmul"] / 1e9,
        exp_gops=repeat * cached / taken["exp"] / 1e9,
        copy_gbs=2 * large.element_size() * copied / taken["copy"] / 1e9,
    )
