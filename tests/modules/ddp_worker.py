"""Run as a script by test_ddp.py: one of two processes that train a PST layer with DistributedDataParallel."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pst

VARIANTS = {
    "coarse": ({"topk": 0}, None),
    "gate": ({"topk": 8}, None),
    "refine": ({"topk": 8, "fusion": "refine"}, None),
    "gate switched to refine": ({"topk": 8}, "refine"),
}


def train(layer: nn.Module, rank: int, steps: int = 2) -> None:
    """Train on other data in each process; raises if a parameter was left out."""
    parallel = DistributedDataParallel(layer, find_unused_parameters=False)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(steps):
        x = torch.randn(2, 8, 8, 6, generator=generator)
        upper = torch.randn(2, 12, 4, 3, generator=generator)
        optimizer.zero_grad()
        parallel(x, upper).square().mean().backward()
        optimizer.step()


def assert_every_parameter_has_a_gradient(layer: nn.Module) -> None:
    for name, p in layer.named_parameters():
        assert p.grad is not None, name


def assert_equal_on_all_processes(layer: nn.Module) -> None:
    for name, p in layer.named_parameters():
        copies = [torch.empty_like(p) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, p.detach().contiguous())
        assert all(torch.equal(copy, copies[0]) for copy in copies), name


def main(rank: int, init: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2, timeout=timedelta(minutes=15))
    for name, (settings, fusion) in VARIANTS.items():
        torch.manual_seed(0)
        layer = pst.PST(8, 12, 32, head_dim=8, depth=2, **settings)
        if fusion is not None:
            pst.set_fusion(layer, fusion)
        before = [p.detach().clone() for p in layer.parameters()]
        train(layer, rank)
        assert_every_parameter_has_a_gradient(layer)
        assert_equal_on_all_processes(layer)
        moved = sum(not torch.equal(p, b) for p, b in zip(layer.parameters(), before, strict=True))
        sys.stdout.write(f"{name}: {moved} of {len(before)} parameters moved\n")

    # What the above would do if the idle gate were left out, as in eval mode: the check can fail.
    try:
        train(pst.PST(8, 12, 32, head_dim=8).eval(), rank)
    except RuntimeError as error:
        sys.stdout.write(f"idle: {'Expected to have finished reduction' in str(error)}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
