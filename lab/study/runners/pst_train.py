"""Cells of pst's own trainer: classification, segmentation and torchvision's detectors."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lab.study import recipes as attention
from lab.study.bootstrap import average_precision, detections_of, mean_iou, pack, resample_weights, weighted_mean
from lab.study.derive import CALIBRATION_BATCHES, TUNED_K, TUNED_LR, derive
from lab.study.task import Task
from pst.control import attention_layers
from pst.io.files import write_text
from pst.profile.flops import count_flops
from pst.profile.memory import peak_memory
from pst.train import Config, load_config, load_trained
from pst.train.evaluate import Evaluation
from pst.train.loop import Trainer
from pst.train.state import LAST, STATE, save_weights
from pst.train.tasks import make_task

METRICS = {"classify": ("top1", "top-1"), "segment": ("miou", "mIoU"), "detect": ("map", "mAP50-95")}
_TUNING = {"trainable": "gate", "epochs": 1, "warmup_epochs": 0, "topk": TUNED_K, "fusion": "gate", "lr": TUNED_LR}


def run(task: Task) -> Mapping[str, Any]:
    """Train the cell's model and evaluate it; docs/studies.md lists the fields of a result."""
    cell = task.cell
    config = load_config(cell.runner, overrides=_settings(task))
    task.say("starting")
    training = _fit(config, task)
    described, model = load_trained(config.run_dir / LAST)
    has_pst = cell.settings["evaluations"] is not None
    inputs = described.inputs(torch.zeros(1, *_image_shape(described), dtype=torch.uint8))
    variants = attention.counted(cell)
    counts = {v.name: count_flops(attention.apply(model, v) if has_pst else model, inputs) / 1e9 for v in variants}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": {name: round(count, 4) for name, count in counts.items()},
        "imgsz": config.imgsz,
        "metric": METRICS[cell.runner][1],
        "layers": list(attention_layers(model)) if has_pst else [],
        "training": training,
        **_evaluate(task, config, model),
        "evaluated": cell.settings["evaluations"],
    }


def _settings(task: Task) -> dict[str, Any]:
    """Settings of the training: those of the data set, then the model's, then the recipe's."""
    settings = task.cell.settings
    train = {**settings["data"].get("train", {}), **settings["models"], **settings["recipes"]}
    return {
        **train,
        "data": str(task.data_root / settings["data"]["path"]),
        "out": str(task.work / "run"),
        "seed": task.cell.seed,
        "device": "cpu" if task.device == "cpu" else "auto",
        "val_every": train.get("val_every", train["epochs"]),
        "tensorboard": False,
    }


def _image_shape(described: Any) -> tuple[int, ...]:
    return tuple(described.square(torch.zeros(described.config.in_chans, 32, 32, dtype=torch.uint8)).shape)


def _fit(config: Config, task: Task) -> dict[str, Any]:
    """Train to the end, or go on with it; what it cost."""
    facts = config.run_dir / "training.json"
    if facts.is_file():
        return json.loads(facts.read_text(encoding="utf-8"))
    trainer = Trainer(config, resume=True)
    attention.check(trainer.bare, task.cell)
    progress, resumed_at = trainer.progress, trainer.progress.epoch
    torch.set_num_threads(1)
    with peak_memory(task.device) as peak:
        while not trainer.done:
            trainer.train_epoch()
            trainer.finish_epoch()
            task.say(f"epoch {progress.epoch}/{config.epochs}")
    trainer.finish()
    training = {
        "seconds": round(progress.seconds, 1),
        "loss": [round(sum(v for k, v in row.items() if k.startswith("loss_")), 4) for row in progress.history],
        **({} if config.val_every == config.epochs else {"curve": _curve(config, progress.history)}),
        "peak_memory_mb": round(peak[0], 1),
        "resumed_at_epoch": resumed_at,
    }
    write_text(facts, json.dumps(training))
    (config.run_dir / STATE).unlink()  # nothing to go on with any more
    return training


def _curve(config: Config, history: Sequence[Mapping[str, float]]) -> list[tuple[int, float]]:
    """(Epochs done, metric then) where the trainer validated."""
    name = f"val_{METRICS[config.task][0]}"
    return [(int(row["epoch"]), round(row[name], 5)) for row in history if name in row]


def _evaluate(task: Task, config: Config, model: nn.Module) -> dict[str, Any]:
    """Every variant on the validation images, which are read once for each size."""
    cell, models = task.cell, {"trained": model}
    rows: dict[str, dict[str, Any]] = {}
    replicates: list[Tensor] = []
    images = 0
    for imgsz in dict.fromkeys(v.imgsz for v in cell.variants):
        size = config.imgsz if imgsz is None else imgsz
        described, _ = load_trained(config.run_dir / LAST, imgsz=size)
        evaluation = Evaluation(described, "val")
        images = len(evaluation.data)
        weights = resample_weights(cell.data, images)
        weights = torch.cat([torch.ones_like(weights[:1]), weights])
        for variant in [v for v in cell.variants if v.imgsz == imgsz]:
            task.say(f"evaluating {variant.name}")
            if variant.use not in models:
                models[variant.use] = _derive(variant.use, config, next(model.parameters()).device)
            one = models[variant.use]
            if cell.settings["evaluations"] is not None:
                one = attention.apply(copy.deepcopy(one) if variant.gate is not None else one, variant)
            result = evaluation.run(one)
            figures = _score(cell.runner, result["columns"], weights, task.device)
            replicates.append(figures[1:])
            rows[variant.name] = {
                "value": round(float(figures[0]), 5),
                **_others(result["metrics"]),
                "ms": round(result["ms_per_image"], 3),
            }
    return {"images": images, "evaluations": rows, "replicates": pack(replicates)}


def _others(metrics: Mapping[str, float]) -> dict[str, float]:
    """Further metrics by the names that all runners share; not those of each class."""
    kept = {name: value for name, value in metrics.items() if not name.startswith("iou_")}
    return {name.removeprefix("map_").replace("map", "ap"): round(value, 5) for name, value in kept.items()}


def _score(kind: str, columns: Mapping[str, list[Any]], weights: Tensor, device: str) -> Tensor:
    """(R,) metric of each resample from what the trainer keeps of every image; detections are counted on ``device``."""
    if kind == "classify":
        return weighted_mean(torch.tensor(columns["correct"]), weights)
    if kind == "segment":
        return mean_iou(torch.tensor(columns["confusion"]), weights)
    found, keep = detections_of(columns, device)
    return average_precision(found, weights, interpolation="step", keep=keep).mean(1)


def _derive(use: str, config: Config, device: torch.device) -> nn.Module:
    """What an evaluation needs instead of the trained model, made of its file anew."""
    described, derived = load_trained(config.run_dir / LAST, cache="none", check_images=False)
    data = described.dataset("train")
    count = min(CALIBRATION_BATCHES * config.batch, len(data))
    starts = range(0, count, config.batch)
    return derive(
        derived.to(device),
        use,
        batches=lambda: (
            described.inputs(data.__getitems__(range(i, min(i + config.batch, count))).images.to(device))
            for i in starts
        ),
        tune=lambda model: _tune(model, described.classes, config),
    )


def _tune(model: nn.Module, classes: tuple[str, ...], config: Config) -> None:
    """One epoch of the trainer over the gate, from the model's weights, which it gets back."""
    folder = config.run_dir.parent / "tuned"
    folder.mkdir(exist_ok=True)
    start = folder / "start.safetensors"
    save_weights(start, model, make_task(config, classes))
    options: dict[str, Any] = {**_TUNING, "out": str(folder), "weights": str(start), "calibrate": 0, "val_every": 1}
    trainer = Trainer(
        replace(config, stochastic_topk=None, stochastic_max_tokens=None, track_fine_statistics=False, **options),
        resume=True,
    )
    while not trainer.done:
        trainer.train_epoch()
        trainer.finish_epoch()
    trainer.finish()
    model.load_state_dict(load_trained(folder / LAST)[1].state_dict())
