"""Whole detectors of Ultralytics, theirs and ours: eager, and as files for ONNX Runtime and OpenVINO."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lab.bench.roofline import Roofline
from lab.bench.suites import ratio_records, run_models
from pst.control import set_options
from pst.profile.flops import count_work
from pst.profile.timing import interleave

_OPTIONS = {"k": "topk", "tokens": "max_tokens"}
_ROWS = ", its "
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def run_detectors(
    names: Sequence[str], *, imgsz: int, seconds: float, roofline: Roofline, device: str = "cpu", batch: int = 1
) -> list[dict[str, Any]]:
    """Detectors side by side, batch norms folded: `run_models`, with operations and the least time that they take.

    Args:
        names: Models that Ultralytics or this package builds, with k and a bound behind one of ours: "yolo11n",
            "yolo11n-pst k=8", "yolo11n-pst k=0 tokens=100"; or rows of one alone: "yolo11n-pst k=0, its A2C2f rows".
        imgsz: Side of the image in pixels.
        seconds: Time for all together.
        roofline: Peaks of ``device``.
        device: Where to run.
        batch: Images.
    """
    builders = {name: partial(_fused, name) for name in names}
    records = run_models(builders, imgsz=imgsz, seconds=seconds, device=device, batch=batch)
    return [r if _ROWS in r["name"] else _with_work(r, imgsz, batch, roofline) for r in records]


def run_exports(names: Sequence[str], *, imgsz: int, seconds: float, roofline: Roofline) -> list[dict[str, Any]]:
    """The same detectors as files, float32, batch of one; those of one runtime in turn, the first as its baseline.

    The runtimes come one after the other, for the threads of one may wait busily while the other runs. Those of ONNX
    Runtime, which has threads of its own for each file, stop when a call ends: see `pst.export.load`.

    Args:
        names: As for `run_detectors`.
        imgsz: Side of the image in pixels.
        seconds: Time for each runtime.
        roofline: Peaks of this machine.
    """
    from pst.export import load

    image, threads = torch.rand(1, 3, imgsz, imgsz), torch.get_num_threads()
    records: list[dict[str, Any]] = []
    for kind, runtime in RUNTIMES.items():
        with tempfile.TemporaryDirectory() as folder:
            files = {name: _write(name, kind, imgsz, Path(folder)) for name in names}
            runs = {name: load(path, threads=threads) for name, path in files.items()}
            times = interleave({name: partial(run, image) for name, run in runs.items()}, seconds=seconds)
        records += [{"runtime": runtime, **record} for record in ratio_records(times)]
    return [_with_work(record, imgsz, 1, roofline) for record in records]


def build(name: str) -> Any:
    """A YOLO object by a name as `run_detectors` takes it."""
    with _undisturbed():
        from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
        from pst.integrations.ultralytics import YOLO

        stem, *settings = name.split()
        yolo: Any = YOLO(f"{stem}.yaml")
    for option, _, value in (setting.partition("=") for setting in settings):
        set_options(yolo, **{_OPTIONS[option]: int(value)})
    return yolo


def _fused(name: str) -> nn.Module:
    name, _, rows = name.partition(_ROWS)
    model = build(name).model.fuse(verbose=False)
    return _Rows(model, rows.removesuffix(" rows")) if rows else model


class _Rows(nn.Module):
    """The rows of one kind in a detector, each with the inputs that it has for the first image, one after the other."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        self.rows = [m for m in model.modules() if type(m).__name__ == kind]
        self.inputs: list[tuple[Any, ...]] = []

    def forward(self, images: torch.Tensor) -> None:
        """(B, 3, H, W) -> nothing."""
        if not self.inputs:
            hooks = [row.register_forward_pre_hook(lambda _, args: self.inputs.append(args)) for row in self.rows]
            self.model(images)
            for hook in hooks:
                hook.remove()
        for row, args in zip(self.rows, self.inputs, strict=True):
            row(*args)


def _with_work(record: dict[str, Any], imgsz: int, batch: int, roofline: Roofline) -> dict[str, Any]:
    """The record with 10⁹ operations, attention included, and exponentials, and the least time that both take."""
    from pst.integrations.ultralytics.flops import without_values

    model, image = without_values(build(record["name"]), imgsz)
    work = count_work(model, [image.expand(batch, -1, -1, -1)])
    least = roofline.least_ms(work)
    return {
        **record, "gflops": work.flops / 1e9, "gexp": work.exponentials / 1e9, "least_ms": least,
        "share": least / record["ms"]["median"],
    }  # fmt: skip


def _write(name: str, kind: str, imgsz: int, folder: Path) -> Path:
    """Write one file through Ultralytics' exporter, with or without PST layers inside."""
    from pst.integrations.ultralytics.export_write import place, write_host

    yolo = build(name)
    place(yolo, folder / name.replace(" ", "-"))
    options = {"imgsz": [imgsz, imgsz], "batch": 1, "data": None}
    with _undisturbed():
        return write_host(yolo, kind, {}, options, dynamic=False, half=False, int8=False, opset=None)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the number of threads, which Ultralytics sets for itself, and leave out its progress messages."""
    from ultralytics.utils import LOGGER

    threads, level = torch.get_num_threads(), LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        torch.set_num_threads(threads)
