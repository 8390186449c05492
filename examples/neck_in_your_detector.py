"""A PST neck in a detector of your own: a small network that marks the middle of each object and says how large it is.

    python examples/neck_in_your_detector.py --out runs/examples/neck

Writes ``picture.png``: pictures that it has not seen, with the boxes that it finds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from shapes import NAMES, Picture, draw, side_by_side
from torch import Tensor, nn

import pst
from pst.visualize import draw_boxes

STRIDE = 4  # pixels per position of the finest map


class Detector(nn.Module):
    """Three stages of convolutions, a PST pyramid, and a head on the finest map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stage(3, 32)
        self.stages = nn.ModuleList([stage(32, 32), stage(32, 64), stage(64, 96)])
        self.neck = pst.PSTPyramid([32, 64, 96], 64)  # one line in place of your FPN
        self.head = nn.Conv2d(64, len(NAMES) + 2, 3, padding=1)
        nn.init.constant_(self.head.get_parameter("bias")[: len(NAMES)], -4.0)  # few positions hold an object

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits of classes (B, K, H/4, W/4), and log width and height in pixels (B, 2, H/4, W/4)."""
        x, maps = self.stem(images), []
        for module in self.stages:
            x = module(x)
            maps.append(x)  # (B, 32, H/4, W/4), (B, 64, H/8, W/8), (B, 96, H/16, W/16)
        finest = self.neck(maps)[0]  # (B, 64, H/4, W/4)
        out = self.head(finest)
        return out[:, : len(NAMES)], out[:, len(NAMES) :]


def stage(channels: int, out: int) -> nn.Sequential:
    """A convolution that halves the map, and its norm."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Batch(NamedTuple):
    """Images (B, 3, H, W); classes (B, K, H/4, W/4), 0 or 1; log sizes (B, 2, H/4, W/4), NaN where nothing is."""

    images: Tensor
    classes: Tensor
    sizes: Tensor


def batch_of(pictures: Sequence[Picture]) -> Batch:
    """What the network gets, and what it shall say."""
    images = torch.from_numpy(np.stack([p.pixels for p in pictures])).permute(0, 3, 1, 2) / 255
    side = images.shape[-1] // STRIDE
    classes = torch.zeros(len(pictures), len(NAMES), side, side)
    sizes = torch.full((len(pictures), 2, side, side), float("nan"))
    for i, picture in enumerate(pictures):
        for (left, top, right, bottom), label in zip(picture.boxes.tolist(), picture.labels.tolist(), strict=True):
            row, column = int((top + bottom) / 2) // STRIDE, int((left + right) / 2) // STRIDE
            classes[i, label, row, column] = 1
            sizes[i, :, row, column] = torch.tensor([right - left, bottom - top]).log()
    return Batch(images, classes, sizes)


def train(model: Detector, steps: int) -> None:
    """On pictures drawn anew for each step."""
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.zeros(())
    for step in range(steps):
        batch = batch_of([draw(1000 + 8 * step + i) for i in range(8)])
        logits, sizes = model(batch.images)
        known = batch.sizes.isfinite()
        objects = batch.classes.sum()
        loss = F.binary_cross_entropy_with_logits(logits, batch.classes, reduction="sum") / objects
        loss = loss + F.l1_loss(sizes[known], batch.sizes[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.2f}")


@torch.inference_mode()
def detect(model: Detector, images: Tensor, score: float = 0.3) -> list[tuple[Tensor, Tensor]]:
    """Boxes (n, 4) and labels (n,) of each image: positions that are surer than their neighbours."""
    logits, sizes = model(images)
    sure = logits.sigmoid()
    peaks = (sure == F.max_pool2d(sure, 3, 1, 1)) & (sure > score)
    found = []
    for peak, size in zip(peaks, sizes.exp(), strict=True):
        label, row, column = peak.nonzero().T
        middle, half = torch.stack([column, row], 1) * STRIDE + STRIDE / 2, size[:, row, column].T / 2
        found.append((torch.cat([middle - half, middle + half], 1), label))
    return found


def recall(found: list[tuple[Tensor, Tensor]], pictures: Sequence[Picture]) -> float:
    """Share of the objects that a box of their class covers with IoU 0.5 or more."""
    from torchvision.ops import box_iou

    hits = 0
    for (boxes, labels), picture in zip(found, pictures, strict=True):
        fits = box_iou(torch.from_numpy(picture.boxes), boxes) >= 0.5
        same = torch.from_numpy(picture.labels)[:, None] == labels
        hits += int((fits & same).any(1).sum())
    return hits / sum(len(picture.boxes) for picture in pictures)


def main(argv: Sequence[str] | None = None) -> float:
    """Train, detect, draw; the share of objects found with k = 0."""
    parser = argparse.ArgumentParser(description="A PST neck in a detector of your own.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/neck"))
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    model = Detector()
    print(f"Training {args.steps} steps: less than a minute on two idle cores")
    train(model, args.steps)
    model.eval()
    pictures = [draw(i) for i in range(32)]
    images = batch_of(pictures).images
    shares = {}
    for k in (0, 8):
        pst.set_topk(model, k)  # the same weights: compare k on your own data before you keep it
        shares[k] = recall(detect(model, images), pictures)
        print(f"k = {k}: {shares[k]:.0%} of the objects found")
    pst.set_topk(model, 0)
    args.out.mkdir(parents=True, exist_ok=True)
    shown = []
    for picture, (boxes, labels) in list(zip(pictures, detect(model, images), strict=True))[:5]:
        image = side_by_side([picture.pixels])
        tags = [NAMES[label] for label in labels.tolist()]
        shown.append(np.array(draw_boxes(image, boxes.tolist(), tags, labels.tolist(), scale=3, font_size=14)))
    side_by_side(shown).save(args.out / "picture.png")
    print(f"Written: {args.out / 'picture.png'}")
    return shares[0]


if __name__ == "__main__":
    main()
