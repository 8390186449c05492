"""What this machine can do at best, measured in the same run as the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pst.bench.timing import interleave


@dataclass(frozen=True)
class Roofline:
    """Peaks of this machine with PyTorch's current number of threads, float32.

    Attributes:
        matmul_gflops: Dense matrix product, 10⁹ floating-point operations per second.
        exp_gops: Exponentials, 10⁹ per second.
        copy_gbs: Bytes read and written by a copy, 10⁹ per second.
    """

    matmul_gflops: float
    exp_gops: float
    copy_gbs: float

    def attention_ms(self, queries: int, keys: int, width: int) -> float:
        """Least time of softmax attention in milliseconds: both matrix products and one exponential per logit.

        Args:
            queries: N, all images together.
            keys: Keys that each query meets.
            width: C, all heads together; the logits are N·keys for every 32 channels.
        """
        products = 4 * queries * keys * width / (self.matmul_gflops * 1e9)
        exponentials = queries * keys * (width / 32) / (self.exp_gops * 1e9)
        return 1e3 * (products + exponentials)


def measure_roofline(device: str = "cpu") -> Roofline:
    """Measure the three peaks, in about three seconds."""
    a, b = (torch.randn(1536, 1536, device=device) for _ in range(2))
    small, out = torch.randn(2**16, device=device), torch.empty(2**16, device=device)
    large, target = torch.randn(2**25, device=device), torch.empty(2**25, device=device)
    times = interleave(
        {
            "matmul": lambda: torch.mm(a, b),
            "exp": lambda: [torch.exp(small, out=out) for _ in range(64)],
            "copy": lambda: target.copy_(large),
        },
        seconds=3,
    )
    seconds = {name: timing.low / 1e3 for name, timing in times.items()}  # a peak: the fast runs
    return Roofline(
        matmul_gflops=2 * 1536**3 / seconds["matmul"] / 1e9,
        exp_gops=64 * 2**16 / seconds["exp"] / 1e9,
        copy_gbs=2 * 4 * 2**25 / seconds["copy"] / 1e9,
    )
