"""A model with a PST layer trained, exported to ONNX and checked against the file; `run_without_torch.py` runs it.

    python examples/export_model.py --out runs/examples/export
    python examples/run_without_torch.py runs/examples/export/shapes.onnx runs/examples/export/image.png

Writes ``shapes.onnx``, and ``image.png``, a picture that it has not seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from shapes import NAMES, draw
from torch import Tensor, nn

import pst
from pst.export import load, to_onnx


class Segmenter(nn.Module):
    """Two maps, fused by one PST layer: a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(halve(3, 32), halve(32, 32))
        self.coarse = halve(32, 64)
        self.fuse = pst.PST(32, 64, 64, fusion="refine")
        self.classes = nn.Conv2d(64, 1 + len(NAMES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) from 0 to 1 -> logits (B, classes, H, W)."""
        fine = self.fine(images)  # (B, 32, H/4, W/4)
        fused = self.fuse(fine, self.coarse(fine))  # (B, 64, H/4, W/4)
        return F.interpolate(self.classes(fused), scale_factor=4.0, mode="bilinear")


def halve(channels: int, out: int) -> nn.Sequential:
    """A convolution of stride 2, and its norm."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def train(model: nn.Module, steps: int) -> None:
    """On pictures drawn anew for each step."""
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.zeros(())
    for step in range(steps):
        pictures = [draw(1000 + 8 * step + i) for i in range(8)]
        images = torch.from_numpy(np.stack([p.pixels for p in pictures])).permute(0, 3, 1, 2) / 255
        loss = F.cross_entropy(model(images), torch.from_numpy(np.stack([p.mask for p in pictures])).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.2f}")


def main(argv: Sequence[str] | None = None) -> Path:
    """Train, export, compare; the file."""
    parser = argparse.ArgumentParser(description="A model with a PST layer, as an ONNX file.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/export"))
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    model = Segmenter()
    train(model, args.steps)
    model.eval()
    pst.set_topk(model, 4)  # k is a constant of the file
    args.out.mkdir(parents=True, exist_ok=True)
    path = to_onnx(model, (torch.rand(1, 3, 64, 64),), args.out / "shapes.onnx", dynamic=True, input_names=["image"])

    picture = draw(4, size=96)  # another size than was exported
    Image.fromarray(picture.pixels).save(args.out / "image.png")
    image = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        difference = (load(path)(image) - model(image)).abs().max()
    print(f"Written: {path}, at most {difference.item():.1g} from the model")
    return path


if __name__ == "__main__":
    main()
