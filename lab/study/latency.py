"""Latency of a study's models, side by side in one process, with nothing else on the device.

The figures inside the cells are taken beside other trainings. These are what the report's latency column shows, where
they have been measured: weights and seeds do not matter to them, so one file serves a whole study.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.study import recipes as attention
from lab.study.grid import Cell, Study, load_study
from pst.io.files import write_text
from pst.profile.environment import environment
from pst.profile.timing import interleave

_CLASSES = 20


def measure(path: str | Path, out: str | Path, *, device: str = "cpu", batch: int = 1, seconds: float = 60.0) -> Path:
    """Time one forward pass of every model and counted variant, as fast as its library makes it in eager mode.

    Args:
        path: Study YAML.
        out: Folder of the results.
        device: "cpu" or "cuda".
        batch: Images in a pass.
        seconds: For all of them together, data set by data set's image size.

    Returns:
        The file, ``latency-STUDY-DEVICE-bBATCH.json``: image size -> model -> variant -> milliseconds per image.

    Raises:
        ValueError: The study is of a synthetic task.
    """
    study = load_study(path)
    if any(cell.runner == "retrieval" for cell in study.cells):
        raise ValueError(
            f"{path} is a study of a synthetic task, which has no latency to measure apart: its cells time it"
        )
    sizes = dict.fromkeys(int(cell.settings["data"]["train"]["imgsz"]) for cell in study.cells)
    timed: dict[str, dict[str, dict[str, float]]] = {}
    for imgsz in sizes:
        cases = _cases(study, imgsz, device, batch)
        timings = interleave({"|".join(key): case for key, case in cases.items()}, seconds=seconds / len(sizes))
        for name, timing in timings.items():
            model, variant = name.split("|")
            timed.setdefault(str(imgsz), {}).setdefault(model, {})[variant] = round(timing.median / batch, 4)
    target = Path(out) / f"latency-{study.name}-{device}-b{batch}.json"
    record = {"latency_of": study.name, "device": device, "batch": batch, "ms_per_image": timed, **environment()}
    write_text(target, json.dumps(record, indent=1) + "\n")
    return target


def _cases(study: Study, imgsz: int, device: str, batch: int) -> dict[tuple[str, str], Callable[[], object]]:
    cases = {}
    first = {cell.model: cell for cell in reversed(study.cells) if cell.settings["data"]["train"]["imgsz"] == imgsz}
    for name, cell in first.items():
        built, inputs = _build(cell, study.folder, imgsz, batch)
        inputs = [t.to(device) for t in inputs] if isinstance(inputs, list) else inputs.to(device)
        built = built.to(device).eval()
        for variant in attention.counted(cell):
            model = built
            if cell.settings["evaluations"] is not None:
                model = attention.apply(copy.deepcopy(built), variant)
            cases[name, variant.name] = _pass(model, inputs)
    return cases


def _pass(model: nn.Module, inputs: Any) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> object:
        return model(inputs)

    return run


def _build(cell: Cell, folder: Path, imgsz: int, batch: int) -> tuple[nn.Module, Tensor | list[Tensor]]:
    """An untrained model of a cell, convolutions and BatchNorms fused where the host does so, and its input."""
    if cell.runner == "ultralytics":
        from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
        from pst.integrations.ultralytics import YOLO

        yaml = str(cell.settings["models"]["yaml"])
        yolo: Any = YOLO(folder / yaml if (folder / yaml).is_file() else yaml)
        return yolo.model.eval().fuse(verbose=False), torch.rand(batch, yolo.model.yaml["channels"], imgsz, imgsz)
    from pst.train import load_config
    from pst.train.tasks import make_task

    config = load_config(cell.runner, overrides={**cell.settings["models"], "data": "none", "imgsz": imgsz})
    task: Any = make_task(config, tuple(str(i) for i in range(_CLASSES)))
    model = task.build(pretrained=False)
    shape = task.square(torch.zeros(config.in_chans, 32, 32, dtype=torch.uint8)).shape
    return model, task.inputs(torch.randint(256, (batch, *shape), dtype=torch.uint8))
