"""Validation of one model over a grid of bounds, k and fusions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pst.functional.attention import Fusion
from pst.integrations.ultralytics.classes import check_classes
from pst.integrations.ultralytics.flops import gflops
from pst.integrations.ultralytics.yolo import YOLO, check_pst, trained_size
from pst.io.files import check_file
from pst.profile.sweep import Evaluated, check_bounds, grid, run_sweep

_VAL_DEFAULTS = {"plots": False, "verbose": False, "exist_ok": True}


class SweepRow(NamedTuple):
    """One validation run.

    Attributes:
        fusion: "gate" or "refine"; "none" for k = 0, where every fusion gives the same model.
        topk: k.
        map50_95: Mean average precision over IoU 0.50 to 0.95, in [0, 1].
        map50: The same at IoU 0.50.
        latency_ms: Forward pass per image in milliseconds, mean over the set, as Ultralytics measures it.
        peak_memory_mb: Most memory held in 10⁶ bytes: the process's resident set on the CPU, framework and data
            included, PyTorch's allocator on CUDA; see `pst.profile.memory.peak_memory`.
        images: Number of validation images.
        max_tokens: Bound on the coarse tokens; None for none, or where the layers' own differ.
        gflops: 10⁹ operations for one image of the given size; None in rows of earlier versions.
        imgsz: That size, in pixels; None in rows of earlier versions.
    """

    fusion: str
    topk: int
    map50_95: float
    map50: float
    latency_ms: float
    peak_memory_mb: float
    images: int
    max_tokens: int | None = None
    gflops: float | None = None
    imgsz: int | None = None


def sweep(
    model: str | Path,
    data: str | Path,
    *,
    topk: Sequence[int] = (0, 4, 8, 16),
    fusion: Sequence[Fusion] = ("gate", "refine"),
    max_tokens: Sequence[int | None] | None = None,
    imgsz: int | None = None,
    batch: int = 16,
    device: str | None = None,
    project: str | Path = "runs/val",
    trust: bool = False,
    **val_args: Any,
) -> Iterator[SweepRow]:
    """Validate a detector once for every bound, k and fusion; k = 0 runs once for each bound.

    Args:
        model: Checkpoint (``best.pt``) of a model with PST layers.
        data: Dataset YAML in the Ultralytics layout.
        topk: Values of k.
        fusion: Fusions; "gate" needs a model that was built with it.
        max_tokens: Bounds on the coarse tokens, None among them for no bound; None alone leaves the model its own.
        imgsz: Image size in pixels; None takes that of the training.
        batch: Images in a batch.
        device: As in Ultralytics; None picks one.
        project: Folder for what Ultralytics writes.
        trust: Do as Ultralytics does, which runs whatever code the model's file holds.
        **val_args: More arguments of ``YOLO.val``.

    Returns:
        An iterator that yields one row after each run: k = 0 first, then every k of each fusion. Arguments are
        checked, the model is opened and its classes are compared with those of the data before it is returned; a
        warning is logged where only their names differ.

    Raises:
        FileNotFoundError: ``model`` or ``data`` does not exist.
        TypeError: A k or a bound is not an integer.
        ValueError: A k is negative, a bound < 1, a fusion unknown or not to be had with this model, there is no PST
            layer in it, or the data have another number of classes.
    """
    grid(topk, fusion)  # wrong ones are refused before anything is loaded
    check_bounds(max_tokens)
    check_file(model, "checkpoint", "pass the path of a trained model, e.g. runs/train/weights/best.pt")
    yolo = YOLO(model, trust=trust)
    check_pst(yolo, model)
    check_classes(yolo, data, single_cls=bool(val_args.get("single_cls")))
    side: int = trained_size(yolo) if imgsz is None else imgsz
    folder = str(Path(project).absolute())  # a relative one Ultralytics would put below its own
    own = {"data": str(data), "imgsz": side, "batch": batch, "device": device, "project": folder}
    images: list[int] = []
    yolo.add_callback("on_val_end", lambda validator: images.append(validator.seen))
    evaluate = partial(_evaluate, yolo, images, {**_VAL_DEFAULTS, **val_args, **own})
    place = "cuda" if torch.cuda.is_available() and device != "cpu" else "cpu"
    asked = {"topk": topk, "fusion": fusion, "max_tokens": max_tokens}
    rows = run_sweep(yolo, evaluate, **asked, count=lambda: gflops(yolo, side), device=place)
    return (SweepRow(**row.flat(), imgsz=side) for row in rows)


def _evaluate(yolo: YOLO, images: list[int], args: dict[str, Any], name: str) -> Evaluated:
    """Ultralytics' own validation of the object as it is; it appends the number of images."""
    metrics = yolo.val(name=name, **args)
    with suppress(OSError):  # it makes a folder though it writes nothing
        Path(metrics.save_dir).rmdir()
    found = {"map50_95": float(metrics.box.map), "map50": float(metrics.box.map50)}
    return Evaluated(found, metrics.speed["inference"], images[-1])
