"""Segmentation on masks of your own: write them in the layout that `pst train` reads, train, evaluate, look.

    python examples/segment_your_masks.py --out runs/examples/segment

Writes ``picture.png``: pictures that it has not seen, the masks as drawn, the masks as predicted.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from shapes import NAMES, PALETTE, draw, side_by_side

from pst.propagate.pictures import overlay
from pst.train import evaluate, fit, load_config
from pst.train.predict import predict_images

TRAIN, VAL = 40, 8  # pictures


def write_data(root: Path) -> None:
    """``images/``, ``masks/`` (0 to K − 1, 255 is unlabelled), a list for each split, and the classes' names."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    for i in range(TRAIN + VAL):
        picture = draw(i)
        Image.fromarray(picture.pixels).save(root / f"images/{i:03}.png")
        Image.fromarray(picture.mask).save(root / f"masks/{i:03}.png")
    (root / "train.txt").write_text("".join(f"{i:03}\n" for i in range(TRAIN)))
    (root / "val.txt").write_text("".join(f"{i:03}\n" for i in range(TRAIN, TRAIN + VAL)))
    (root / "classes.txt").write_text("\n".join(["ground", *NAMES]) + "\n")


def main(argv: Sequence[str] | None = None) -> float:
    """Write data, train, evaluate, draw; the mean IoU."""
    parser = argparse.ArgumentParser(description="Segmentation on masks of your own.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/segment"))
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args(argv)

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # a line for each epoch
    write_data(args.out / "data")
    settings = [f"data={args.out / 'data'}", f"out={args.out / 'run'}", f"epochs={args.epochs}", "imgsz=64", "zoom=1"]
    run = fit(load_config("segment", overrides=[*settings, "cache=ram", "tensorboard=false"]))
    metrics = evaluate(run)["metrics"]
    print(metrics)

    unseen = [args.out / f"data/images/{i:03}.png" for i in range(TRAIN, TRAIN + 2)]
    predict_images(run, unseen, args.out / "found")  # a picture, and a mask of class numbers, of each
    draw_masks(args.out, [path.stem for path in unseen])
    return metrics["miou"]


def draw_masks(root: Path, names: Sequence[str]) -> None:
    """Pictures, each with its mask as drawn and as predicted."""
    palette = [*PALETTE, *[0] * (768 - len(PALETTE))]
    shown = []
    for name in names:
        pixels = np.array(Image.open(root / f"data/images/{name}.png"))
        masks = [np.array(Image.open(root / file)) for file in (f"data/masks/{name}.png", f"found/{name}.mask.png")]
        shown += [pixels, *(overlay(pixels, mask, None, palette) for mask in masks)]
    side_by_side(shown, scale=3).save(root / "picture.png")
    print(f"Written: {root / 'picture.png'}")


if __name__ == "__main__":
    main()
