"""Section of the GPU benchmark that trains: a small net with a PST layer learns to segment drawn shapes."""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.bench.gpu.correctness import Save, attempt
from lab.bench.textbook import textbook_layer
from pst.control import set_topk, use_topk
from pst.modules import PST

SIDE = 64


class Net(nn.Module):
    """Two levels of convolutions, a PST layer that fuses them, one logit for each pixel of the finer level."""

    def __init__(self, topk: int, textbook: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(1, 32, 2), *_conv(32, 64, 1))
        self.down = nn.Sequential(*_conv(64, 128, 2))
        self.fuse = PST(64, 128, 64, topk=topk)
        self.head = nn.Conv2d(64, 1, 1)
        self.textbook = textbook

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, 1, S/2, S/2)."""
        x = self.stem(images)
        upper = self.down(x)
        return self.head(textbook_layer(self.fuse, x, upper) if self.textbook else self.fuse(x, upper))


def training(device: str, quick: bool, save: Save) -> None:
    """Train in float32, float16 with loss scaling and bfloat16, with k = 0 and 8; the loss must fall by half."""
    steps, batch = (30, 8) if quick else (150, 32)
    for precision, k, textbook in itertools.product(("float32", "float16", "bfloat16"), (0, 8), (False, True)):
        if device == "cpu" and precision != "float32":  # a CPU only tries the code
            continue
        record = {"precision": precision, "topk": k, "model": "textbook" if textbook else "pst"}
        save(record | attempt(partial(_train, device, precision, k, textbook, steps, batch)))


def _train(device: str, precision: str, k: int, textbook: bool, steps: int, batch: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net = Net(k, textbook).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    dtype = getattr(torch, precision)
    scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)
    generator = torch.Generator(device).manual_seed(0)
    losses, begin = [], time.perf_counter()
    for step in range(steps):
        if step == 10:  # the first steps pay for set-up
            _wait(device)
            begin = time.perf_counter()
        images, masks = _draw(batch, generator)
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            loss = F.binary_cross_entropy_with_logits(net(images).float(), masks)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
    _wait(device)
    seconds = time.perf_counter() - begin
    first, last = (torch.stack(part).mean().item() for part in (losses[:5], losses[-5:]))
    return {
        "loss_first": first, "loss_last": last, "images_per_second": batch * (steps - 10) / seconds,
        "ok": bool(last < 0.5 * first), **({} if textbook else {"loss_by_k": _sweep(net, generator)}),
    }  # fmt: skip


def _sweep(net: Net, generator: torch.Generator) -> dict[int, float]:
    """Loss on fresh images in eval mode with other k than it was trained with."""
    images, masks = _draw(64, generator)
    net.eval()
    losses = {}
    for k in (0, 8, 64):
        with torch.no_grad(), use_topk(net, k):
            losses[k] = F.binary_cross_entropy_with_logits(net(images), masks).item()
    set_topk(net, 0)
    return losses


def _draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bright discs on noise, and their masks at half the side."""
    device = generator.device
    centre = torch.rand(count, 2, 1, 1, generator=generator, device=device)
    radius = 0.1 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator, device=device)
    axis = (torch.arange(SIDE, device=device) + 0.5) / SIDE
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    disc = ((grid - centre).square().sum(1, keepdim=True) < radius.square()).float()
    noise = 0.5 * torch.randn(count, 1, SIDE, SIDE, generator=generator, device=device)
    return (disc + noise).to(memory_format=torch.channels_last), F.avg_pool2d(disc, 2).round()


def _conv(width: int, out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
