"""Cells of the synthetic task: does a trained PST layer fetch with its fine attention what the coarse map has lost?

A cell takes seconds, so one that was interrupted is begun anew. Everything is drawn from the cell's seed, and the
images that models are evaluated on from a seed of their own. On one machine the same cell gives the same figures.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.study import recipes as attention
from lab.study.bootstrap import pack, resample_weights, weighted_mean
from lab.study.derive import TUNED_LR, derive
from lab.study.runners.retrieval_model import Retriever
from lab.study.runners.retrieval_task import SIDE, Retrieval
from lab.study.task import Task
from pst.profile.flops import count_flops
from pst.profile.memory import peak_memory

_KNOWN = {
    "data": {"landmarks", "width", "code", "shared", "train"},
    "train": {"lr", "phases"},
    "models": {"upper", "upper_channels", "reductions", "dim"},
    "recipes": {"fusion", "selection", "stochastic_topk", "track_fine_statistics"},
}
_NEEDED = {"data": {"landmarks", "width", "train"}, "train": {"lr", "phases"}, "models": {"upper"}, "recipes": set()}
_IMAGES, _BATCH, _SEED = 100, 20, 10**6  # of the evaluation
_WARMUP = 50  # steps
_REPORTED = 50  # steps between two figures of the loss
_CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Lesson:
    """How a model is trained.

    Attributes:
        lr: Highest learning rate of Adam.
        phases: [side of the coarse grid, images in a batch, steps], one after the other. Keys are learned many times
            faster among few cells, and then serve among many.
    """

    lr: float
    phases: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        """Check the phases."""
        if not self.phases or any(len(p) != 3 or p[0] < 2 or min(p) < 1 for p in self.phases):
            raise ValueError(f"phases must be [side ≥ 2, images ≥ 1, steps ≥ 1] each, got {self.phases!r}")


_TUNING = Lesson(TUNED_LR, [[SIDE, 8, 100]])


def run(task: Task) -> Mapping[str, Any]:
    """Train the cell's model and evaluate it; docs/studies.md lists the fields of a result.

    Raises:
        ValueError: A setting is missing, unknown or out of range.
    """
    settings = task.cell.settings
    _check({**{kind: settings[kind] for kind in ("data", "models", "recipes")}, "train": settings["data"]["train"]})
    lesson = Lesson(**settings["data"]["train"])
    retrieval = Retrieval(**{name: value for name, value in settings["data"].items() if name != "train"})
    task.say("starting")
    torch.manual_seed(task.cell.seed)
    model = Retriever(retrieval.channels, retrieval.width, **settings["models"]).to(task.device)
    generator = torch.Generator().manual_seed(task.cell.seed)
    training = _train(task, model, retrieval, lesson, generator)
    image = retrieval.draw(1, generator).maps
    counts = {v.name: count_flops(attention.apply(model, v), image) / 1e9 for v in attention.counted(task.cell)}
    uses = dict.fromkeys(v.use for v in task.cell.variants)
    models = {use: _derive(use, task, model, retrieval, generator) for use in uses}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": {name: round(count, 5) for name, count in counts.items()},
        "imgsz": 2 * SIDE,
        "metric": "R²",
        "ceiling": retrieval.shared,
        "images": _IMAGES,
        "training": training,
        **_evaluate(task, models, retrieval),
        "evaluated": settings["evaluations"],
    }


def _check(settings: Mapping[str, Mapping[str, Any]]) -> None:
    for kind, given in settings.items():
        if unknown := given.keys() - _KNOWN[kind]:
            raise ValueError(f"{kind} of a retrieval study has no {sorted(unknown)}; known are {sorted(_KNOWN[kind])}")
        if missing := _NEEDED[kind] - given.keys():
            raise ValueError(f"{kind} of a retrieval study needs {sorted(missing)}, got {sorted(given)}")


def _train(
    task: Task, model: Retriever, retrieval: Retrieval, lesson: Lesson, generator: torch.Generator
) -> dict[str, Any]:
    """Train the model by the cell's recipe; what that cost."""
    recipe = task.cell.settings["recipes"]
    drawing = attention.prepare(model, recipe, torch.Generator().manual_seed(task.cell.seed))
    began = time.perf_counter()
    with drawing, peak_memory(task.device) as peak:
        loss = _fit(task, model, retrieval, lesson, generator)
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "loss": loss,
        "peak_memory_mb": round(peak[0], 1),
        "resumed_at_epoch": 0,
    }


def _fit(task: Task, model: nn.Module, retrieval: Retrieval, lesson: Lesson, generator: torch.Generator) -> list[float]:
    """Adam with a warm-up and half a cosine over all phases; mean loss of every 50 steps."""
    steps = [(side, images) for side, images, count in lesson.phases for _ in range(count)]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lesson.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / _WARMUP, 1.0) * (1 + math.cos(math.pi * i / len(steps))) / 2
    )
    losses: list[Tensor] = []
    model.train()
    for i, (side, images) in enumerate(steps):
        if i % _REPORTED == 0:
            task.say(f"step {i}/{len(steps)}")
        scenes = retrieval.draw(images, generator, side)
        loss = F.mse_loss(model(scenes.maps.to(task.device)), scenes.wanted.to(task.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    model.eval()
    return [round(float(part.mean()), 4) for part in torch.stack(losses).split(_REPORTED)]


def _derive(use: str, task: Task, model: Retriever, retrieval: Retrieval, generator: torch.Generator) -> nn.Module:
    """The model itself, or what an evaluation needs instead, made of a copy."""
    if use == "trained":
        return model
    return derive(
        copy.deepcopy(model),
        use,
        batches=lambda: retrieval.draw(_CALIBRATION_IMAGES, generator).maps.split(_BATCH),
        tune=lambda derived: _fit(task, derived, retrieval, _TUNING, generator),
    )


def _evaluate(task: Task, models: Mapping[str, nn.Module], retrieval: Retrieval) -> dict[str, Any]:
    """Every variant on the same images."""
    scenes = retrieval.draw(_IMAGES, torch.Generator().manual_seed(_SEED))
    weights = resample_weights(task.cell.data, _IMAGES)
    weights = torch.cat([torch.ones_like(weights[:1]), weights])
    rows: dict[str, dict[str, float]] = {}
    replicates: list[Tensor] = []
    for variant in task.cell.variants:
        task.say(f"evaluating {variant.name}")
        model = models[variant.use]
        model = attention.apply(copy.deepcopy(model) if variant.gate is not None else model, variant)
        began = time.perf_counter()
        figures = weighted_mean(_explained(model, scenes.maps, scenes.wanted, task.device), weights)
        milliseconds = 1000 * (time.perf_counter() - began) / _IMAGES
        rows[variant.name] = {"value": round(float(figures[0]), 5), "ms": round(milliseconds, 3)}
        replicates.append(figures[1:])
    return {"evaluations": rows, "replicates": pack(replicates)}


@torch.no_grad()
def _explained(model: nn.Module, maps: Tensor, wanted: Tensor, device: str) -> Tensor:
    """(I,) R² of each image, against the variance that contents are made with, 1: the mean over images is exact."""
    parts = [
        (model(m.to(device)) - w.to(device)).square().mean((1, 2, 3)).cpu()
        for m, w in zip(maps.split(_BATCH), wanted.split(_BATCH), strict=True)
    ]
    return 1 - torch.cat(parts)
