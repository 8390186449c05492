"""Metrics of a trained model, and what a paired comparison needs of every image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Subset

from pst.data.dataset import Images
from pst.profile.flops import count_flops
from pst.profile.sweep import Evaluated, check_bounds, grid, run_sweep
from pst.train.batches import dealt, plain_loader, worker_errors
from pst.train.models import load_trained, set_attention
from pst.train.start import start

if TYPE_CHECKING:
    from pst.train.tasks.base import Record, Task


def evaluate(
    source: str | Path,
    topk: int | None = None,
    fusion: str | None = None,
    selection: str | None = None,
    split: str = "val",
    **overrides: Any,
) -> dict[str, Any]:
    """Evaluate a trained model.

    Args:
        source: Run folder, whose ``best.safetensors`` is taken, or a weights file.
        topk: k of every PST layer; a model without any takes 0 alone. None takes the run's own, also for the next two.
        fusion: "gate" or "refine".
        selection: Rule that picks the coarse tokens.
        split: Split of the data set.
        **overrides: Settings that replace those of the run, e.g. ``data``, ``batch``, ``imgsz``.

    Returns:
        "task", "model", "classes", "split", "topk", "fusion", "selection"; "metrics", name -> value; "ms_per_image",
        the forward pass; "images", the names of the n files; "columns", name -> n entries, one for each image:

        - classify: "target", "predicted", "correct" (0 or 1);
        - detect: "scores", "labels", "hits", "ignored", "objects", see `pst.train.tasks.detection_metrics.match`;
        - segment: "confusion", rows are the true classes, columns the predicted ones, in pixels.

    Raises:
        FileNotFoundError: The model or the data do not exist.
        ValueError: They do not fit, or a setting is wrong.
    """
    task, model = load_trained(source, **overrides)
    given = {"topk": topk, "fusion": fusion, "selection": selection}
    set_attention(model, task.config, **given)
    used = {name: getattr(task.config, name) if value is None else value for name, value in given.items()}
    return Evaluation(task, split).run(model, **used)


def sweep(
    source: str | Path,
    *,
    topk: Sequence[int] = (0, 4, 8, 16),
    fusion: Sequence[str] = ("gate", "refine"),
    selection: str | None = None,
    max_tokens: Sequence[int | None] | None = None,
    split: str = "val",
    **overrides: Any,
) -> Iterator[dict[str, Any]]:
    """Evaluate a trained model once for every bound, k and fusion; k = 0 runs once for each bound.

    Arguments and errors as in `evaluate`, with several k, fusions and bounds on the coarse tokens (None among them for
    no bound; None alone leaves the run's own).
    A model without PST layers runs once.

    Yields:
        "fusion" ("none" for k = 0), "topk", "max_tokens", the metrics, "latency_ms" (per image), "peak_memory_mb" (see
        `pst.profile.memory.peak_memory`), "gflops" (for one image), "images" (their number), "imgsz" (pixels).
    """
    grid(topk, fusion)  # wrong ones are refused before anything is loaded
    check_bounds(max_tokens)
    task, model = load_trained(source, **overrides)
    set_attention(model, task.config, topk=0, fusion="gate", selection=selection)
    evaluation = Evaluation(task, split)

    def measure(_: str) -> Evaluated:
        found = evaluation.run(model)
        return Evaluated(found["metrics"], found["ms_per_image"], len(found["images"]))

    def count() -> float:
        return count_flops(model, task.inputs(evaluation.data[0].images)) / 1e9

    device = evaluation.accelerator.device
    rows = run_sweep(model, measure, topk=topk, fusion=fusion, max_tokens=max_tokens, count=count, device=device)
    return ({**row.flat(), "imgsz": task.config.imgsz} for row in rows)


class Evaluation:
    """One split, read once, for any number of models and settings.

    Args:
        task: Of the models.
        split: Name of the split.
    """

    def __init__(self, task: Task[Any], split: str) -> None:
        self.task, self.split = task, split
        self.accelerator = start(task.config)
        self.data = task.dataset(split)

    def run(self, model: nn.Module, **settings: Any) -> dict[str, Any]:
        """Evaluate a model as it is; ``settings`` are written into the result, which is that of `evaluate`."""
        task, data = self.task, self.data
        model = model.to(self.accelerator.device).eval()
        records, seconds = predict(task, model, data, self.accelerator)
        listed = task.split(self.split)
        return {
            **task.config.resolved(),
            "classes": list(task.classes),
            "split": self.split,
            **settings,
            "metrics": task.metrics(records, listed),
            "ms_per_image": 1000 * seconds / len(data),
            "images": [file.name for file in data.files],
            "columns": task.columns(records, listed),
        }


def predict(task: Task[Any], model: nn.Module, data: Images, accelerator: Accelerator) -> tuple[list[Record], float]:
    """Records of all images in order, gathered from all processes, and seconds of this process's forward passes."""
    records: list[Record] = []
    seconds = 0.0
    rank, count = accelerator.process_index, accelerator.num_processes
    mine = Subset(data, range(rank, len(data), count))
    with worker_errors():
        for read in dealt(plain_loader(mine, task.config)):
            batch = read.to(accelerator.device)
            began = time.perf_counter()
            with torch.inference_mode(), accelerator.autocast():
                output = model(task.inputs(batch.images))
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            seconds += time.perf_counter() - began
            records += task.records(output, batch)
    for record in records:
        record["index"] = data.kept[record["index"]]
    gathered = gather_object(records) if count > 1 else records
    return sorted(gathered, key=lambda record: record["index"]), seconds
