"""The paper's trainings: what is trained, on what, how, and what the paper says came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ultralytics.data import utils as host_data

from pst.control import set_options
from pst.integrations.ultralytics import dataset
from pst.integrations.ultralytics.guard import protected
from pst.integrations.ultralytics.known import class_names
from pst.integrations.ultralytics.plugin import register
from pst.integrations.ultralytics.yolo import YOLO
from pst.io.safe_load import load, plain
from pst.profile.sweep import grid, options

# scale, mixup and copy_paste grow with the model, as in YOLOv12's published table
_AUGMENTATION = {
    "n": {"scale": 0.5, "mixup": 0.0, "copy_paste": 0.1},
    "s": {"scale": 0.9, "mixup": 0.05, "copy_paste": 0.15},
    "m": {"scale": 0.9, "mixup": 0.15, "copy_paste": 0.4},
}
_COCO_GAINS = {"n": 0.9, "s": 0.5, "m": 0.4}
_IMAGENET_GAINS = {"resnet18": 6.5, "resnet50": 1.7, "resnet101": 1.0}
_GRID = ((0, 8), ("gate", "refine"))

COCO_SCALES = tuple(_AUGMENTATION)
IMAGENET_MODELS = (*_IMAGENET_GAINS, "yolo11n", "yolo11s", "yolo11m")


class Recipe(NamedTuple):
    """One training.

    Attributes:
        name: e.g. "coco-yolo11n-pst".
        model: Name of the YAML.
        task: "detect" or "classify".
        data: Dataset, as Ultralytics takes it.
        args: Arguments of the training.
        metric: Key of the figure in Ultralytics' results, in [0, 1].
        metric_name: The same for readers.
        baseline: Name of the recipe that the paper's gain is over; None where there is none.
        paper_gain: The paper's gain in percentage points; None where it has none, or none that is known here.
    """

    name: str
    model: str
    task: str
    data: str
    args: dict[str, Any]
    metric: str
    metric_name: str
    baseline: str | None
    paper_gain: float | None


class Figure(NamedTuple):
    """One evaluation of a trained model: its k and fusion (None without PST or k), and the metric in [0, 1]."""

    topk: int | None
    fusion: str | None
    value: float


def coco(scale: str, *, baseline: bool = False) -> Recipe:
    """YOLO11-PST of scale "n", "s" or "m" on COCO: 600 epochs, SGD, batch 128.

    With ``baseline`` YOLO11 itself, which the paper compares with, trained in the same way.
    """
    name = f"coco-yolo11{scale}"
    args = {"epochs": 600, "batch": 128, "imgsz": 640, "optimizer": "SGD", "lr0": 0.01, "momentum": 0.937}
    args |= {"weight_decay": 5e-4, "pretrained": False, "mosaic": 1.0, **_AUGMENTATION[scale]}
    return Recipe(
        name=name if baseline else f"{name}-pst",
        model=f"yolo11{scale}.yaml" if baseline else f"yolo11{scale}-pst.yaml",
        task="detect",
        data="coco.yaml",
        args=args,
        metric="metrics/mAP50-95(B)",
        metric_name="mAP50-95",
        baseline=None if baseline else name,
        paper_gain=None if baseline else _COCO_GAINS[scale],
    )


def imagenet(model: str) -> Recipe:
    """One of `IMAGENET_MODELS` with PST on ImageNet-1k: 200 epochs, SGD with learning rate 0.2, batch 256."""
    return Recipe(
        name=f"imagenet-{model}-cls-pst",
        model=f"{model}-cls-pst.yaml",
        task="classify",
        data="imagenet",
        args={"epochs": 200, "batch": 256, "imgsz": 224, "optimizer": "SGD", "lr0": 0.2, "pretrained": False},
        metric="metrics/accuracy_top1",
        metric_name="top-1",
        baseline=None,
        paper_gain=_IMAGENET_GAINS.get(model),
    )


def check_data(recipe: Recipe, data: str) -> str:
    """Look for every image of the training and validation sets, and say in one line what was found.

    Raises:
        FileNotFoundError: Something is missing; the message says what and how to get it.
    """
    try:
        found = dataset.count_detection(data) if recipe.task == "detect" else dataset.count_imagenet(data)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{data} is not complete: {error}. Name your own copy with --data, or let Ultralytics download it to "
            f"{dataset.DATASETS_DIR} with --download"
        ) from error
    return f"{data}: " + ", ".join(f"{count:,} {split} images" for split, count in found.items())


def download(recipe: Recipe, data: str) -> None:
    """Let Ultralytics download what it knows how to, where it wants it."""
    register()
    with protected():  # Ultralytics' own YAML may download; anybody else's could run any program
        (host_data.check_det_dataset if recipe.task == "detect" else host_data.check_cls_dataset)(data)


def epochs_done(last: Path) -> tuple[int, int]:
    """(epochs that a ``last.pt`` has behind it, epochs of its training), read without unpickling it.

    Raises:
        ValueError: The file is damaged: Ultralytics writes it in place, so that a kill in that moment cuts it off.
    """
    try:
        root: Any = load(last, class_names())
        epochs, epoch = plain(root["train_args"]["epochs"]), plain(root["epoch"])
        if type(epochs) is not int or type(epoch) is not int:
            raise ValueError(f"{last} does not say how many epochs it has behind it")  # noqa: TRY301
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{error}. A run that was killed while it wrote leaves such a file: copy best.pt, beside it, over it to go "
            "on from the best epoch, or remove the folder to begin again"
        ) from error
    return (epochs if epoch < 0 else epoch + 1), epochs  # -1 marks the end of a training


def train_command(recipe: Recipe, data: str, folder: Path, extra: list[str]) -> list[str]:
    """``yolo`` command line that trains, or goes on where ``folder/weights/last.pt`` is.

    ``extra`` are more ``ARG=VALUE`` for Ultralytics; the last one of a name counts.
    """
    last = folder / "weights" / "last.pt"
    args = {"model": last, "resume": True} if last.is_file() else {"model": recipe.model, **recipe.args}
    args |= {"data": data, "save_dir": folder} | dict(item.split("=", 1) for item in extra)
    return [recipe.task, "train", *(f"{key}={value}" for key, value in args.items())]


def evaluate(recipe: Recipe, best: Path, data: str, **val_args: Any) -> Iterator[Figure]:
    """Validate ``best.pt``: with k = 0 as it was trained, then with k = 8 in both fusions; a baseline once."""
    yolo = YOLO(best)
    for own in [options(*entry) for entry in grid(*_GRID)] if "-pst" in recipe.model else [{}]:
        if own:
            set_options(yolo, **own)
        metrics: Any = yolo.val(data=data, imgsz=recipe.args["imgsz"], plots=False, **val_args)
        yield Figure(own.get("topk"), own.get("fusion"), float(metrics.results_dict[recipe.metric]))
