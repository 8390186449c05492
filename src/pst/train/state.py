"""What a run folder holds, and how a killed run goes on from it.

``config.yaml``, ``results.csv`` and TensorBoard's files are for people; ``best.safetensors`` and ``last.safetensors``
are the weights, with configuration and class names in their metadata; ``state.pt`` is all that training needs to go
on: weights, optimizer, gradient scaler, position. There are no generators in it, because every step's random numbers
follow from the seed and the step's number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pst.checkpoint import load_safetensors, save_safetensors
from pst.files import replacing, write_text
from pst.safe_load import load, plain
from pst.train.config import Config

STATE, BEST, LAST, CONFIG, RESULTS = "state.pt", "best.safetensors", "last.safetensors", "config.yaml", "results.csv"
_METADATA = "pst_train"
_MAY_CHANGE = {"out", "workers", "device", "cache", "check_images", "tensorboard", "save_steps"}


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch: Finished epochs.
        batch: Batches of the unfinished epoch that are done, for each process.
        step: Optimizer steps.
        best: Best value of the task's metric; −inf before the first validation.
        sums: Loss parts summed over the batches of the unfinished epoch.
        seconds: Time spent training, without validation.
        calibrated: Whether the finished run was.
        history: One row for each finished epoch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    calibrated: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def open_run(config: Config, *, resume: bool) -> Path:
    """Make the run folder and write ``config.yaml``.

    Raises:
        FileExistsError: It holds a run, and ``resume`` is not set.
    """
    run = config.run_dir
    if (run / CONFIG).exists() and not resume:
        raise FileExistsError(f"{run} holds a run: pass --resume to continue it, or choose another folder with out=…")
    write_text(run / CONFIG, yaml.safe_dump(config.resolved(), sort_keys=False))
    return run


def read_progress(run: Path, config: Config) -> tuple[Progress, dict[str, Any] | None]:
    """Position and tensors of the last checkpoint; the beginning and None when there is none.

    Raises:
        ValueError: The run was started with other settings; the message names them.
    """
    if not (run / STATE).exists():
        return Progress(), None
    state = read_state(run / STATE)
    saved, now = state["config"], config.resolved()
    differing = [key for key in now if key not in _MAY_CHANGE and saved.get(key) != now[key]]
    if differing:
        pairs = ", ".join(f"{key}={saved.get(key)!r} (now {now[key]!r})" for key in differing)
        raise ValueError(f"{run} was started with {pairs}: continue it with those, or choose another folder with out=…")
    return Progress(**state["progress"]), state


def read_state(path: Path) -> dict[str, Any]:
    """The content of a ``state.pt``: dictionaries, numbers, texts and tensors, and nothing in it executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or no `write_progress` wrote it.
    """
    remedy = "it was not written by pst train: remove it to begin the run again"
    state = load(path, remedy=remedy)
    try:
        state = plain(state, tensors=True)
    except ValueError as error:
        raise ValueError(f"{path} is not loaded: it has {error}; {remedy}") from error
    parts = [state.get(name) for name in ("config", "progress")] if isinstance(state, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or parts[1].keys() - {f.name for f in fields(Progress)}:
        raise ValueError(f"{path} is not loaded: it has no settings and no progress of a run; {remedy}")
    return state


def write_progress(run: Path, config: Config, progress: Progress, **parts: Mapping[str, Any] | None) -> None:
    """Replace ``state.pt``; an interrupted write leaves the one before."""
    with replacing(run / STATE) as part:
        torch.save({"config": config.resolved(), "progress": asdict(progress), **parts}, part)


def save_weights(path: Path, model: nn.Module, config: Config, classes: tuple[str, ...]) -> None:
    """Write a model's state dict with what is needed to build the model again."""
    metadata = {_METADATA: json.dumps({"config": config.resolved(), "classes": classes})}
    save_safetensors(model.state_dict(), path, metadata)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """State dict, settings and class names from a file of `save_weights`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another program wrote it.
    """
    weights, metadata = load_safetensors(path)
    if _METADATA not in metadata:
        raise ValueError(f"{path} was not written by pst train: it does not say how to build its model")
    try:
        content = json.loads(metadata[_METADATA])
        config, classes = content["config"], tuple(content["classes"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} was not written by pst train: its metadata is damaged ({error!r:.80})") from error
    if not isinstance(config, dict) or "task" not in config or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path} was not written by pst train: it does not say how to build its model")
    return weights, config, classes
