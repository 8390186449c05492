"""Validation of one model over a grid of k and fusions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from pst.control import set_fusion, set_topk
from pst.functional.attention import Fusion
from pst.functional.checks import check_fusion, check_topk
from pst.integrations.ultralytics.yolo import YOLO

_VAL_DEFAULTS = {"plots": False, "verbose": False, "exist_ok": True}


class SweepRow(NamedTuple):
    """One validation run.

    Attributes:
        fusion: "gate" or "refine"; "none" for k = 0, where every fusion gives the same model.
        topk: k.
        map50_95: Mean average precision over IoU 0.50 to 0.95, in [0, 1].
        map50: The same at IoU 0.50.
        latency_ms: Forward pass per image in milliseconds, mean over the set, as Ultralytics measures it.
        peak_memory_mb: Most memory held in 10⁶ bytes: the process's resident set on the CPU (sampled every 5 ms, so
            the framework and the data are in it), PyTorch's allocator on CUDA.
        images: Number of validation images.
    """

    fusion: str
    topk: int
    map50_95: float
    map50: float
    latency_ms: float
    peak_memory_mb: float
    images: int


def sweep(
    model: str | Path,
    data: str | Path,
    *,
    topk: Sequence[int] = (0, 4, 8, 16),
    fusion: Sequence[Fusion] = ("gate", "refine"),
    imgsz: int = 640,
    batch: int = 16,
    device: str | None = None,
    project: str | Path = "runs/val",
    trust: bool = False,
    **val_args: Any,
) -> Iterator[SweepRow]:
    """Validate a detector once for every k and fusion; k = 0 runs once.

    Args:
        model: Checkpoint (``best.pt``) of a model with PST layers.
        data: Dataset YAML in the Ultralytics layout.
        topk: Values of k.
        fusion: Fusions; "gate" needs a model that was built with it.
        imgsz: Image size in pixels.
        batch: Images in a batch.
        device: As in Ultralytics; None picks one.
        project: Folder for what Ultralytics writes.
        trust: See `YOLO`.
        **val_args: More arguments of ``YOLO.val``.

    Returns:
        An iterator that yields one row after each run: k = 0 first, then every k of each fusion. Arguments are
        checked and the model is opened before it is returned.

    Raises:
        FileNotFoundError: ``model`` does not exist.
        TypeError: A k is not an integer.
        ValueError: A k is negative, a fusion unknown or not to be had with this model, or it has no PST layer.
    """
    for k in topk:
        check_topk(k)
    for name in fusion:
        check_fusion(name)
    if not Path(model).is_file():
        raise FileNotFoundError(f"no checkpoint at {model}: pass the path of a trained model, e.g. best.pt")
    yolo = YOLO(model, trust=trust)
    for name in fusion:  # fails here, before any work, where a layer has no gate
        set_fusion(yolo, name)
    return _runs(
        yolo,
        _grid(topk, fusion),
        {
            **_VAL_DEFAULTS,
            **val_args,
            "data": str(data),
            "imgsz": imgsz,
            "batch": batch,
            "device": device,
            "project": str(project),
        },
    )


def _grid(topk: Sequence[int], fusion: Sequence[Fusion]) -> list[tuple[Fusion | None, int]]:
    grid: list[tuple[Fusion | None, int]] = [(None, 0)] if 0 in topk else []
    return grid + [(name, k) for name in fusion for k in topk if k > 0]


def _runs(yolo: YOLO, grid: list[tuple[Fusion | None, int]], args: dict[str, Any]) -> Iterator[SweepRow]:
    images: list[int] = []
    yolo.add_callback("on_val_end", lambda validator: images.append(validator.seen))
    for fusion, k in grid:
        set_topk(yolo, k)
        if fusion is not None:
            set_fusion(yolo, fusion)
        label = fusion if fusion is not None else "none"
        with peak_memory(cuda=torch.cuda.is_available() and args["device"] != "cpu") as peak:
            metrics = yolo.val(name=f"{label}-k{k}", **args)
        box = metrics.box
        yield SweepRow(
            label, k, float(box.map), float(box.map50), metrics.speed["inference"], peak[0] / 1e6, images[-1]
        )


@contextmanager
def peak_memory(*, cuda: bool = False, interval: float = 0.005) -> Iterator[list[float]]:
    """Most memory held inside the with block, in bytes, as the one item of the list once the block ends."""
    peak = [0.0]
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    process, done = psutil.Process(os.getpid()), threading.Event()

    def sample() -> None:
        peak[0] = max(peak[0], float(process.memory_info().rss))

    def watch() -> None:
        while not done.wait(interval):
            sample()

    sample()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        sample()
        if cuda:
            peak[0] = float(torch.cuda.max_memory_allocated())
