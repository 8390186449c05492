"""Cells of the Ultralytics host: training, then every evaluation on a validation set held on the device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

import pst
from lab.study import recipes as attention
from lab.study.bootstrap import average_precision, pack, resample_weights
from lab.study.derive import CALIBRATION_BATCHES, TUNED_LR, derive
from lab.study.matching import ap_by_size, match
from lab.study.runners.yolo_training import overrides_of, train
from lab.study.task import Task
from lab.study.variants import Variant
from pst.control import attention_layers


def run(task: Task) -> Mapping[str, Any]:
    """Train the cell's detector and evaluate it; docs/studies.md lists the fields of a result."""
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
            self._models[variant.use] = _derive(variant.use, self._models["trained"], self.task)
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


def _derive(use: str, model: nn.Module, task: Task) -> nn.Module:
    """What an evaluation needs instead of the trained model, made of a copy."""
    from lab.study.runners.yolo_cells import batches, tune_gate

    derived, seed = copy.deepcopy(model), task.cell.seed
    overrides = {**overrides_of(task), "save_dir": str(task.work / use)}
    return derive(
        derived,
        use,
        batches=lambda: [b["img"] for b in islice(batches(derived, overrides, seed), CALIBRATION_BATCHES)],
        tune=lambda m: tune_gate(m, pst.gate_parameters(m), batches(m, overrides, seed), TUNED_LR),
    )
