"""One of two processes that train YOLO11n-PST for two steps under DistributedDataParallel: gloo, on the CPU.

Usage: python ddp_step.py RANK RENDEZVOUS_FILE K,K,… BACKEND_OF_COMPILE|none OUT_FILE
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from ultralytics.cfg import get_cfg

import pst
from pst.integrations.ultralytics import YOLO


def batch(rank: int, step: int) -> dict[str, torch.Tensor]:
    """Two noise images with a box each; different on every rank."""
    generator = torch.Generator().manual_seed(10 * rank + step)
    return {
        "img": torch.rand(2, 3, 128, 128, generator=generator),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(2, 1) + 0.1 * rank,
        "batch_idx": torch.tensor([0.0, 1.0]),
    }


def train(rank: int, topk: int, backend: str) -> dict[str, Any]:
    """A new model's two steps with k = ``topk``: which parameters had no gradient, which moved, and the weights."""
    torch.manual_seed(rank)  # DistributedDataParallel has to give every rank the weights of the first
    model = YOLO("yolo11n-pst.yaml").model.train()
    model.args = get_cfg()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".dfl" not in name  # as Ultralytics' trainer freezes it
    pst.set_topk(model, topk)
    compiled = backend != "none"
    net = torch.compile(model, backend=backend) if compiled else model
    # as the trainer wraps it, but for find_unused_parameters, which it leaves on where it does not compile
    net = DistributedDataParallel(net, find_unused_parameters=False, static_graph=compiled, broadcast_buffers=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    idle: set[str] = set()
    for step in range(2):  # the second is where parameters without a gradient in the first are an error
        data = batch(rank, step)
        loss, _ = model.loss(data, net(data["img"])) if compiled else net(data)
        optimizer.zero_grad()
        loss.sum().backward()
        idle |= {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        optimizer.step()
    parameters = dict(model.named_parameters())
    return {
        "without_gradient": sorted(idle),
        "moved": [name for name, p in parameters.items() if not torch.equal(p, before[name])],
        "weights": {name: p.detach() for name, p in parameters.items()},
    }


def main(rank: int, rendezvous: str, ks: list[int], backend: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.save({k: train(rank, k, backend) for k in ks}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], [int(k) for k in sys.argv[3].split(",")], sys.argv[4], sys.argv[5])
