"""Training of cells on the Ultralytics host."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import pst
from lab.study import recipes as attention
from lab.study.bootstrap import average_precision
from lab.study.grid import Cell
from lab.study.matching import match
from lab.study.task import Task
from pst.io.files import replacing, write_text
from pst.profile.memory import peak_memory

if TYPE_CHECKING:
    from lab.study.runners.yolo_cells import CellTrainer


def _train_settings(task: Task) -> dict[str, Any]:
    """What the study says of the training: the data set's settings, then the recipe's."""
    settings = task.cell.settings
    return {**settings["data"].get("train", {}), **settings["recipes"].get("train", {})}


def overrides_of(task: Task) -> dict[str, Any]:
    """Arguments of the training."""
    settings = task.cell.settings
    model = str(settings["models"]["yaml"])
    file = task.study / model
    return {
        **{name: value for name, value in _train_settings(task).items() if name != "val_every"},
        "model": str(file if file.is_file() else model),
        "data": str(task.data_root / settings["data"]["path"]),
        "seed": task.cell.seed,
        "device": "0" if task.device == "cuda" else task.device,
        "save_dir": str(task.work),
    }


def train(task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model in float32 and eval mode on the device, and what its training cost."""
    from safetensors.torch import load_file

    task.say("starting")
    logging.getLogger("ultralytics").setLevel(logging.WARNING)  # no table of layers and no bars for each cell
    final, facts = task.work / "final.safetensors", task.work / "training.json"
    trainer = _trainer(task)
    torch.set_num_threads(1)  # the host takes all cores but one, and other cells run beside this one
    if not final.is_file():
        _fit(trainer, task, final, facts)
    drawn = {"stochastic_topk": None, "stochastic_max_tokens": None}  # for training alone
    recipe = {**task.cell.settings["recipes"], **drawn}
    trainer.prepare = lambda model: _prepare(model, recipe, task.cell)
    model = trainer.get_model(cfg=overrides_of(task)["model"], verbose=False)
    model.load_state_dict(load_file(final))
    return model.to(task.device).eval(), json.loads(facts.read_text())


def _trainer(task: Task) -> CellTrainer:
    """The cell's trainer, at the point where an interrupted run of it ended."""
    from lab.study.runners.yolo_cells import CellTrainer

    overrides, val_every = overrides_of(task), _train_settings(task).get("val_every")
    return CellTrainer(
        overrides,
        prepare=lambda model: _prepare(model, task.cell.settings["recipes"], task.cell),
        on_epoch=lambda done, epochs: task.say(f"epoch {done}/{epochs}"),
        validate=None if val_every is None else _validation(task, overrides),
        val_every=1 if val_every is None else val_every,
    )


def _fit(trainer: CellTrainer, task: Task, final: Path, facts: Path) -> None:
    """Train to the end; write what it cost, then the weights."""
    from safetensors.torch import save_file

    resumed_at = len(trainer.log)
    with peak_memory(task.device) as peak:
        trainer.train()
    training = {
        "seconds": round(sum(epoch["seconds"] for epoch in trainer.log), 1),
        "loss": [epoch["loss"] for epoch in trainer.log],
        **({"curve": trainer.curve} if trainer.curve else {}),
        "peak_memory_mb": round(peak[0], 1),
        "resumed_at_epoch": resumed_at,
    }
    write_text(facts, json.dumps(training))
    with replacing(final) as part:
        save_file({name: t.contiguous() for name, t in trainer.trained().state_dict().items()}, part)
    trainer.last.unlink()  # nothing to go on with any more


def _validation(task: Task, overrides: Mapping[str, Any]) -> Callable[[nn.Module], float]:
    """A function that gives a model's mAP50-95 with k = 0.

    The validation images are read here and not on the way, for reading draws random numbers, and the trainer's
    constructor seeds them anew.
    """
    from lab.study.runners.yolo_cached_val import CachedValidation

    imgsz, batch = overrides["imgsz"], overrides["batch"]
    images = CachedValidation(overrides["data"], imgsz=imgsz, batch=batch, device=task.device)
    ones = torch.ones(1, len(images), dtype=torch.float64)

    def value(model: nn.Module) -> float:
        if task.cell.settings["evaluations"] is not None:
            pst.set_topk(model, 0)
        detections, _ = match(images.predict(model)[0], images.box, images.label, images.image)
        return float(average_precision(detections, ones).mean())

    return value


def _prepare(model: nn.Module, recipe: Mapping[str, Any], cell: Cell) -> None:
    """The recipe's options for the fine branch, set on the model to be trained; whether its evaluations will run."""
    attention.check(model, cell)
    attention.prepare(model, recipe)
