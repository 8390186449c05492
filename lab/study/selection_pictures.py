"""What the chosen tokens look at: the images a trained detector does best and worst on, with the selected tokens.

    python -m lab.study.selection_pictures lab/studies/models/neck-pst.yaml final.safetensors digits/data.yaml \
        --imgsz 256 --topk 8 --out docs/assets/study/selection.png

The weights are a cell's ``final.safetensors``. An image's score is the F1 of its detections above a confidence of 0.25
at IoU 0.5. Prints what share of the selected cells touches an object, beside the share of all cells that do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import box_iou
from ultralytics.nn.tasks import DetectionModel

import pst
from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
from lab.study.runners.yolo_cached_val import CachedValidation
from pst.control import Selection
from pst.integrations.ultralytics import register
from pst.io.files import replacing
from pst.visualize import selection_overlay

GREEN, RED = (0, 200, 0), (230, 0, 0)


def main() -> None:
    """Rank the images, draw the first and the last."""
    args = _parse()
    register()
    images = CachedValidation(args.data, imgsz=args.imgsz, batch=1)
    model: Any = DetectionModel(str(args.model), nc=len(images.names), verbose=False)
    model.load_state_dict(load_file(args.weights))
    model.eval()
    pst.set_topk(model, args.topk)
    with pst.record_selection(model) as selected:
        found, _ = images.predict(model)
    scores = [_f1(found[i], images, i) for i in range(len(images))]
    order = sorted(range(len(images)), key=lambda i: scores[i], reverse=True)
    shown = [*order[: args.images], *order[-args.images :]]
    _print_shares(images, selected)
    rows = [_row(images, found[i], i, {name: records[i] for name, records in selected.items()}) for i in shown]
    print("F1 of the rows shown:", ", ".join(f"{scores[i]:.2f}" for i in shown))
    with replacing(args.out) as part:
        _grid(rows).save(part, format="PNG", optimize=True)
    print(f"Written: {args.out}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--topk", type=int, default=8)
    parser.add_argument("--images", type=int, default=3, help="best ones, and as many worst ones")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def _sure(found: Tensor) -> Tensor:
    return found[found[:, 4] >= 0.25]


def _hits(found: Tensor, images: CachedValidation, i: int) -> Tensor:
    """(n,) bool: which detections find an object that no surer one found."""
    own = images.image == i
    box, label = images.box[own], images.label[own]
    fits = (box_iou(found[:, :4], box) >= 0.5) & (found[:, 5:6].long() == label[None])
    hits = torch.zeros(len(found), dtype=torch.bool)
    for n in range(len(found)):
        candidates = fits[n].nonzero().flatten()
        if len(candidates):
            hits[n] = True
            fits[:, candidates[0]] = False
    return hits


def _f1(found: Tensor, images: CachedValidation, i: int) -> float:
    sure = _sure(found)
    return 2 * float(_hits(sure, images, i).sum()) / (len(sure) + int((images.image == i).sum()))


def _touched(selection: Selection, box: Tensor, size: torch.Size) -> Tensor:
    """(Hu·Wu,) bool: which coarse cells touch one of the boxes."""
    (rows, columns), (height, width) = selection.coarse_size, size
    y, x = torch.arange(rows) * height / rows, torch.arange(columns) * width / columns
    in_y = (box[:, 1, None] < y + height / rows) & (box[:, 3, None] > y)
    in_x = (box[:, 0, None] < x + width / columns) & (box[:, 2, None] > x)
    return (in_y[:, :, None] & in_x[:, None, :]).any(0).flatten()


def _print_shares(images: CachedValidation, selected: dict[str, list[Selection]]) -> None:
    for name, records in selected.items():
        chosen, everywhere, edge = [], [], []
        for i, selection in enumerate(records):
            rows, columns = selection.coarse_size
            touched = _touched(selection, images.box[images.image == i], images.batches[i].shape[2:])
            index = selection.index[0]
            chosen.append(touched[index].float().mean())
            everywhere.append(touched.float().mean())
            y, x = index // columns, index % columns
            edge.append(((y == 0) | (y == rows - 1) | (x == 0) | (x == columns - 1)).float().mean())
        rows, columns = records[0].coarse_size
        border = 1 - (rows - 2) * (columns - 2) / (rows * columns)
        shares = [float(torch.stack(t).mean()) for t in (chosen, everywhere, edge)]
        print(f"{name}: {shares[0]:.2f} of the selected cells touch an object, {shares[1]:.2f} of all cells")
        print(f"{name}: {shares[2]:.2f} of the selected cells lie at the map's edge, {border:.2f} of all cells")


def _row(images: CachedValidation, found: Tensor, i: int, selections: dict[str, Selection]) -> list[Image.Image]:
    plain = Image.fromarray(images.batches[i][0].permute(1, 2, 0).numpy())
    boxes = plain.copy()
    draw = ImageDraw.Draw(boxes)
    for detection, hit in zip(_sure(found), _hits(_sure(found), images, i), strict=True):
        draw.rectangle(detection[:4].tolist(), outline=GREEN if hit else RED, width=2)
    return [boxes, *(selection_overlay(plain, s, 0) for s in selections.values())]


def _grid(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    gap = 4
    size = (len(rows[0]) * (width + gap) - gap, len(rows) * (height + gap) - gap)
    out = Image.new("RGB", size, (255, 255, 255))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            out.paste(picture, (x * (width + gap), y * (height + gap)))
    return out


if __name__ == "__main__":
    main()
