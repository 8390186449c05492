"""Predictions of a trained model on any images, as pictures and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pst.data.images import decode
from pst.io.files import write_text
from pst.io.image_file import EXTENSIONS, CorruptImageError
from pst.io.names import counted
from pst.train.log import LOG
from pst.train.models import load_trained, set_attention
from pst.train.prediction_files import PREDICTIONS, list_images, plan_pictures, write_picture
from pst.train.start import start
from pst.visualize.boxes import draw_boxes
from pst.visualize.classes import name_classes, paint_classes

if TYPE_CHECKING:
    from pst.train.tasks.base import Record

_BEST = 5  # classes that are reported for a classified image


def predict_images(
    source: str | Path,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    topk: int | None = None,
    fusion: str | None = None,
    selection: str | None = None,
    score: float = 0.3,
    skip_corrupt: bool = False,
    **overrides: Any,
) -> list[Record]:
    """Predict, write one picture for each image and ``predictions.json``.

    A segmented picture has a strip below it that names the colours.

    Args:
        source: Run folder, or a weights file from one.
        images: Files, and folders whose images are taken.
        out: Folder for what is written; a segmented image also gets ``NAME.mask.png`` with the class indices.
        topk: k of every PST layer. None takes the run's own, also for the next two.
        fusion: "gate" or "refine".
        selection: Rule that picks the coarse tokens.
        score: Least score of a box.
        skip_corrupt: Leave out images that cannot be decoded; the log counts them and names the first.
        **overrides: Settings that replace those of the run.

    Returns:
        One entry for each image: "image", its path; then "classes" (name -> score), or "boxes", "labels" and
        "scores", or "shares" (name -> share of the pixels).

    Raises:
        FileNotFoundError: The model or an image does not exist, or there is none.
        CorruptImageError: An image cannot be decoded and ``skip_corrupt`` is not set, or none can.
        FileExistsError: A file in ``out`` would be replaced that this function did not write, an image itself say.
        ValueError: The file is not a model of `fit`, or two images share a name.
    """
    task, model = load_trained(source, **overrides)
    set_attention(model, task.config, topk=topk, fusion=fusion, selection=selection)
    files, out = list_images(images), Path(out)
    pictures = plan_pictures(files, out, masks=task.config.task == "segment")
    accelerator = start(task.config)
    model = model.to(accelerator.device)
    entries: list[Record] = []
    corrupt: list[str] = []
    try:
        for file, (picture, mask) in zip(files, pictures, strict=True):  # memory does not grow with their number
            try:
                image = decode(file, channels=task.config.in_chans)
            except CorruptImageError as error:
                if not skip_corrupt:
                    remedy = "repair or remove it, or pass --skip-corrupt (in Python skip_corrupt=True)"
                    if file.suffix.lower() not in EXTENSIONS:
                        remedy = "give images, of a video its frames"
                    done = f"; written before it: {counted(len(entries), 'picture')} in {out}" if entries else ""
                    raise CorruptImageError(f"{error}: {remedy}{done}") from error
                corrupt.append(str(error))
                continue
            size = torch.tensor([[image.shape[2], image.shape[1]]])
            with torch.inference_mode(), accelerator.autocast():
                output = model(task.inputs(task.square(image)[None].to(accelerator.device)))
            found = task.predictions(output, size)[0]
            drawn, entry = _DRAW[task.config.task](image, found, task.classes, score)
            write_picture(drawn, picture)
            if "mask" in found and mask is not None:
                write_picture(Image.fromarray(found["mask"].numpy()), mask)
            entries.append({"image": str(file), **entry})
    finally:  # also when a later image cannot be read
        if entries:
            write_text(out / PREDICTIONS, json.dumps(entries, indent=2) + "\n")
    if not entries:
        raise CorruptImageError(f"no image can be decoded, the first: {corrupt[0]}")
    if corrupt:
        LOG.warning("left out %d of %d images, the first: %s", len(corrupt), len(files), corrupt[0])
    return entries


def _draw_classes(
    image: Tensor,
    found: Record,
    classes: Sequence[str],
    score: float,  # noqa: ARG001 a class always has one
) -> tuple[Image.Image, Record]:
    scores = torch.tensor(found["scores"])
    best = scores.argsort(descending=True, stable=True)[:_BEST].tolist()
    named = {classes[i]: float(scores[i]) for i in best}
    text = f"{classes[best[0]]} {scores[best[0]]:.2f}"
    font = ImageFont.load_default(16)
    height = 24
    picture = Image.new("RGB", (max(image.shape[2], int(font.getlength(text)) + 8), image.shape[1] + height), "white")
    ImageDraw.Draw(picture).text((4, 2), text, fill=(0, 0, 0), font=font)
    picture.paste(_pil(image), (0, height))
    return picture, {"classes": named}


def _draw_boxes(
    image: Tensor, found: Record, classes: Sequence[str], score: float
) -> tuple[Image.Image, Record]:  # fmt: skip
    keep = [i for i, value in enumerate(found["scores"]) if value >= score]
    boxes, labels, scores = ([found[name][i] for i in keep] for name in ("boxes", "labels", "scores"))
    tags = [f"{classes[label]} {value:.2f}" for label, value in zip(labels, scores, strict=True)]
    entry = {"boxes": boxes, "labels": [classes[label] for label in labels], "scores": scores}
    return draw_boxes(_pil(image), boxes, tags, labels), entry


def _draw_mask(
    image: Tensor,
    found: Record,
    classes: Sequence[str],
    score: float,  # noqa: ARG001 a pixel always has a class
) -> tuple[Image.Image, Record]:
    mask: Tensor = found["mask"]
    shares = mask.flatten().bincount(minlength=len(classes)) / mask.numel()
    entry = {"shares": {name: share for name, share in zip(classes, shares.tolist(), strict=True) if share > 0}}
    return name_classes(paint_classes(_pil(image), mask.numpy()), mask.numpy(), classes), entry


def _pil(image: Tensor) -> Image.Image:
    """A colour picture of what can be shown: the first three channels, or the first as grey where there are fewer."""
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())


_DRAW = {"classify": _draw_classes, "detect": _draw_boxes, "segment": _draw_mask}
