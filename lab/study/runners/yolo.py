"""Cells of the Ultralytics host: training, then every evaluation on a validation set held on the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pst
from lab.study import recipes as attention
from lab.study.bootstrap import average_precision, pack, resample_weights
from lab.study.matching import ap_by_size, match
from lab.study.runners.yolo_training import overrides_of, train
from lab.study.variants import Variant
from lab.study.worker import Task
from pst.control import attention_layers

_CALIBRATION_BATCHES = 8
_TUNED_K = 8
_TUNED_LR = 0.01


def prepare_data(data: Path) -> None:
    """Raise FileNotFoundError if the data set is not there."""
    if not data.is_file():
        raise FileNotFoundError(f"no data set {data}: name the folder that holds it with --data-root")


def run(task: Task) -> Mapping[str, Any]:
    """Train the cell's detector and evaluate it; docs/evidence.md lists the fields of a result."""
    from pst.integrations.ultralytics.flops import gflops

    settings = task.cell.settings
    model, training = train(task)
    imgsz = overrides_of(task)["imgsz"]
    counted, has_pst = copy.deepcopy(model).cpu(), settings["evaluations"] is not None
    variants = attention.counted(task.cell)
    counts = {v.name: gflops(attention.apply(counted, v) if has_pst else counted, imgsz) for v in variants}
    evaluations = Evaluations(task, imgsz)
    results = evaluations.run(model)
    return {
        "parameters": sum(p.numel() for p in counted.parameters()),
        "gflops": {name: round(count, 4) for name, count in counts.items()},
        "imgsz": imgsz,
        "metric": "mAP50-95",
        "images": evaluations.images,
        "layers": list(attention_layers(counted)) if has_pst else [],
        "training": training,
        **results,
        "evaluated": settings["evaluations"],
    }


class Evaluations:
    """Every variant of one trained model, evaluated on validation images that stay on the device.

    Args:
        task: Of the cell.
        imgsz: Longest side of the images where a variant names none.
    """

    def __init__(self, task: Task, imgsz: int) -> None:
        self.task, self.imgsz = task, imgsz
        self.images = 0
        self._models: dict[str, nn.Module] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._replicates: dict[str, Tensor] = {}

    def run(self, model: nn.Module) -> dict[str, Any]:
        """Evaluate all; the order is that of the variants' image sizes, so that one set is on the device at a time."""
        self._models["trained"] = model
        for imgsz in dict.fromkeys(v.imgsz for v in self.task.cell.variants):
            self._at(imgsz)
        return {"evaluations": self._rows, "replicates": pack(list(self._replicates.values()))}

    def _at(self, imgsz: int | None) -> None:
        from lab.study.runners.yolo_cached_val import CachedValidation

        data = self.task.data_root / self.task.cell.settings["data"]["path"]
        size = self.imgsz if imgsz is None else imgsz
        batch = overrides_of(self.task)["batch"]
        images = CachedValidation(data, imgsz=size, batch=batch, device=self.task.device)
        self.images = len(images)
        weights = resample_weights(self.task.cell.data, len(images)).to(self.task.device)
        weights = torch.cat([torch.ones_like(weights[:1]), weights])
        for variant in [v for v in self.task.cell.variants if v.imgsz == imgsz]:
            self.task.say(f"evaluating {variant.name}")
            self._row(variant, self._model(variant), images, weights)

    def _model(self, variant: Variant) -> nn.Module:
        """The model that a variant needs, set as it says; calibrated and tuned ones are made once."""
        if self.task.cell.settings["evaluations"] is None:
            return self._models["trained"]
        if variant.use not in self._models:
            self._models[variant.use] = derive(variant.use, self._models["trained"], self.task, overrides_of(self.task))
        model = self._models[variant.use]
        model = copy.deepcopy(model) if variant.gate is not None else model  # a constant gate overwrites the learned
        return attention.apply(model, variant)

    def _row(self, variant: Variant, model: nn.Module, images: Any, weights: Tensor) -> None:
        found, milliseconds = images.predict(model)
        detections, matched = match(found, images.box, images.label, images.image)
        ap = average_precision(detections, weights)
        self._replicates[variant.name] = ap[1:].mean(1)
        self._rows[variant.name] = {
            "value": round(float(ap[0].mean()), 5),
            "ap50": round(float(ap[0, 0]), 5),
            **ap_by_size(found, detections, matched, images.box, images.side),
            "ms": round(milliseconds, 3),
        }


def derive(use: str, model: nn.Module, task: Task, overrides: dict[str, Any]) -> nn.Module:
    """A copy of the trained model that is calibrated, or calibrated and with its gate tuned for one epoch."""
    from lab.study.runners.yolo_cells import batches, tune_gate

    derived = copy.deepcopy(model)
    folder = {**overrides, "save_dir": str(task.work / use)}
    images = _first(batches(derived, folder, task.cell.seed), _CALIBRATION_BATCHES)
    pst.calibrate(derived, images)
    if use == "tuned":
        pst.set_options(derived, topk=_TUNED_K, fusion="gate", selection="mean")
        derived.train()
        with pst.freeze_except_gate(derived):
            tune_gate(derived, pst.gate_parameters(derived), batches(derived, folder, task.cell.seed), _TUNED_LR)
    return derived.eval()


def _first(data: Iterator[dict[str, Any]], count: int) -> list[Tensor]:
    return [batch["img"] for _, batch in zip(range(count), data, strict=False)]
