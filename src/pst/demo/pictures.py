"""Validation pictures for the report: ground truth, predictions, and what each PST layer selected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from pst.control import record_selection, use_topk
from pst.demo.settings import Settings
from pst.io.image_file import as_rgb, read_rgb
from pst.visualize import Panel, draw_boxes, selection_panels

if TYPE_CHECKING:
    from pst.integrations.ultralytics import YOLO

TOPK = 8  # of the overlays
CONFIDENCE = 0.25
_GREY = (114, 114, 114)
_WIDTH = 512  # of a drawn picture, about


class Scene(NamedTuple):
    """One validation image.

    Attributes:
        name: File name.
        truth: Picture with the labelled boxes.
        predicted: Picture with the predicted boxes of k = 0.
        panels: Overlays of k = 8, one for each PST layer and head.
    """

    name: str
    truth: Image.Image
    predicted: Image.Image
    panels: list[Panel]


def read_labels(data: str | Path, split: str, imgsz: int) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Ultralytics' label records of the "train" or "val" images of a dataset YAML, and the names of the classes."""
    from pst.integrations.ultralytics.guard import protected
    from pst.integrations.ultralytics.host import YOLODataset, check_det_dataset

    with protected():
        info = check_det_dataset(str(data))
        return YOLODataset(img_path=info[split], data=info, imgsz=imgsz, augment=False).labels, info["names"]


def draw_scenes(
    yolo: YOLO, labels: Sequence[dict[str, Any]], names: dict[int, str], settings: Settings, *, count: int = 4
) -> list[Scene]:
    """Draw ``count`` of the labelled images, evenly spread over them; all when there are fewer."""
    from pst.integrations.ultralytics.host import TQDM

    picks = sorted({round(i * (len(labels) - 1) / max(1, count - 1)) for i in range(count)})
    return [_scene(yolo, labels[i], names, settings) for i in TQDM(picks, desc="pictures", unit="image")]


def _scene(yolo: YOLO, label: dict[str, Any], names: dict[int, str], settings: Settings) -> Scene:
    square, boxes = letterbox(read_rgb(label["im_file"]), label["bboxes"], settings.imgsz)
    classes = [int(c) for c in label["cls"].ravel()]
    scale = max(1, round(_WIDTH / settings.imgsz))
    truth = draw_boxes(square, boxes, [names[c] for c in classes], classes, scale=scale)

    with use_topk(yolo, 0):
        found = _predict(yolo, square, settings).boxes.cpu()
    classes = [int(c) for c in found.cls]
    tags = [f"{names[c]} {confidence:.2f}" for c, confidence in zip(classes, found.conf.tolist(), strict=True)]
    predicted = draw_boxes(square, found.xyxy.tolist(), tags, classes, scale=scale)

    with use_topk(yolo, TOPK), record_selection(yolo) as records:
        _predict(yolo, square, settings)
    return Scene(Path(label["im_file"]).name, truth, predicted, selection_panels(square, records))


def _predict(yolo: YOLO, image: Image.Image, settings: Settings) -> Any:
    (result,) = yolo.predict(
        image, imgsz=settings.imgsz, conf=CONFIDENCE, device=settings.device, verbose=False, save=False
    )
    return result


def letterbox(
    image: Image.Image, boxes: Iterable[Sequence[float]], size: int
) -> tuple[Image.Image, list[tuple[float, float, float, float]]]:
    """Fit a picture into a grey square of ``size`` pixels, as a network of square inputs sees it.

    ``boxes`` (centre x, centre y, width, height), shares of the picture, become (left, top, right, bottom) in pixels.
    """
    ratio = size / max(image.size)
    width, height = (max(1, round(edge * ratio)) for edge in image.size)
    left, top = (size - width) // 2, (size - height) // 2
    square = Image.new("RGB", (size, size), _GREY)
    square.paste(as_rgb(image).resize((width, height), Image.Resampling.BILINEAR), (left, top))
    corners = [
        (
            left + (x - w / 2) * width,
            top + (y - h / 2) * height,
            left + (x + w / 2) * width,
            top + (y + h / 2) * height,
        )
        for x, y, w, h in boxes
    ]
    return square, corners
