"""What a run folder holds, and how a killed run goes on from it.

``config.yaml``, ``results.csv`` and TensorBoard's files are for people; ``best.safetensors`` and ``last.safetensors``
are the weights, with configuration and class names in their metadata; ``state.pt`` is all that training needs to go
on: weights, optimizer, gradient scaler, position. There are no generators in it, because every step's random numbers
follow from the seed and the step's number.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pst.backbones import portable_name
from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, check_statistics
from pst.io.checkpoints import load_safetensors, save_safetensors
from pst.io.files import replacing, write_text
from pst.io.safe_load import load, plain
from pst.train.config import SET_ANYWAY, Config
from pst.train.identity import differences
from pst.train.tasks.base import Task

STATE, BEST, LAST, CONFIG, RESULTS = "state.pt", "best.safetensors", "last.safetensors", "config.yaml", "results.csv"
_METADATA = "pst_train"
_REMEDY = "delete it to start the run again, or choose another folder with out=…"
_MAY_CHANGE = {"data", "out", "workers", "device", "cache", "check_images", "tensorboard", "save_steps"}
_LENGTH = {"epochs", "max_steps"}


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

    @property
    def position(self) -> str:
        """In words, what it goes on after."""
        return f"after step {self.step}, in epoch {self.epoch + 1}" if self.batch else f"after epoch {self.epoch}"

    def note(self, sums: Mapping[str, Any], since: float) -> float:
        """Keep the sums of the epoch and the time since then, as `time.perf_counter` counts; returns the time now."""
        now = time.perf_counter()
        self.sums = {name: float(value) for name, value in sums.items()}
        self.seconds += now - since
        return now


def read_state(path: Path) -> Any:
    """What `write_progress` wrote: dictionaries, numbers, texts and tensors; nothing in the file is executed.

    Raises:
        ValueError: It cannot be read, or holds something else.
    """
    state = load(path, remedy=_REMEDY)
    try:
        return plain(state, tensors=True)
    except ValueError as error:
        raise ValueError(f"{path} is not loaded: it has {error}; {_REMEDY}") from error


def check_state(state: Any, path: Path) -> Progress:
    """The position in a state, whose parts are all there.

    Raises:
        ValueError: They are not.
    """
    wanted = {"config": dict, "progress": dict, "model": dict, "optimizer": dict, "scaler": (dict, type(None))}
    if isinstance(state, dict):
        wrong = [name for name, kind in wanted.items() if not isinstance(state.get(name, ...), kind)]
        progress: Any = state.get("progress")
        known = {each.name: each.default for each in fields(Progress)}
        fits = not wrong and progress.keys() == known.keys() and all(_fits(progress[k], known[k]) for k in known)
        fits = fits and isinstance(progress["history"], list)
        if fits and all(map(_is_row, [progress["sums"], *progress["history"]])):
            return Progress(**progress)
    raise ValueError(f"{path} is not a checkpoint of a run; {_REMEDY}")


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, (bool, float)):
        return type(value) is type(default)
    return (type(value) is int and value >= 0) if isinstance(default, int) else isinstance(value, (dict, list))


def _is_row(value: Any) -> bool:
    """Whether a value is a mapping from names to numbers."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and type(number) in (int, float) for name, number in value.items()
    )


def read_progress(run: Path, config: Config) -> tuple[Progress, dict[str, Any] | None, Config]:
    """Position and tensors of the last checkpoint; the beginning and None when there is none.

    The settings are those to go on with: where no mean and deviation are given, they are those that the run began with.

    Raises:
        ValueError: The run was started with other settings, the message names them; or the checkpoint is damaged.
    """
    path = run / STATE
    if not path.exists():
        return Progress(), None, config
    state = read_state(path)
    progress = check_state(state, path)
    begun = _completed(state["config"])
    config = replace(config, **{key: begun.get(key) for key in ("mean", "std") if getattr(config, key, ...) is None})
    saved, now = {**_defaults(config), **begun}, config.resolved()  # an earlier version had fewer settings
    differing = [key for key in now if key not in _MAY_CHANGE and saved.get(key) != now[key]]
    if differing:
        pairs = ", ".join(f"{_pair(key, saved.get(key))} (now {now[key]!r})" for key in differing)
        those = "that" if len(differing) == 1 else "those"
        anew = "choose another folder with out=…"
        if _LENGTH & set(differing):
            anew = f"train longer in a new run, with weights={run / LAST} and another out=…"
        raise ValueError(f"{run} was started with {pairs}: continue it with {those}, or {anew}")
    return progress, state, config


def _pair(key: str, value: Any) -> str:
    """A setting as a shell takes it."""
    return in_shell(key, value) if isinstance(value, list) else f"{key}={value!r}"


def in_shell(key: str, values: Sequence[float]) -> str:
    """A setting of numbers, quoted: brackets are patterns to a shell."""
    return shlex.quote(f"{key}={[*values]}".replace(" ", ""))


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run as this version has them.

    Detectors and segmenters of an earlier one had ImageNet's mean and deviation, and it took options of PST layers as
    arguments of the model, which had no effect.
    """
    arguments = _without(settings.get("model_args"), SET_ANYWAY)
    settings = settings | {"model_args": arguments} if "model_args" in settings else settings
    if settings.get("task") == "classify" or "mean" in settings:
        return settings
    arguments = dict(arguments) if isinstance(arguments, dict) else {}
    of_imagenet = (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    found = {key: arguments.pop(f"image_{key}", None) or list(values) for key, values in of_imagenet}
    return settings | found | {"model_args": arguments}


def _without(value: Any, names: Collection[str]) -> Any:
    """A value without some keys of the mappings in it."""
    if not isinstance(value, dict):
        return value
    return {key: _without(part, names) for key, part in value.items() if key not in names}


def _defaults(config: Config) -> dict[str, Any]:
    return {each.name: each.default for each in fields(config) if each.default is not MISSING}


def check_data(run: Path, state: Mapping[str, Any], now: Mapping[str, Any], *, changed: bool) -> None:
    """Refuse to go on with other data; where ``changed``, only with another number of classes.

    ``now`` is the data's identity, see `pst.train.identity`; a checkpoint of an earlier version has none to compare.

    Raises:
        ValueError: They are not what the run was started with; the message says what changed.
    """
    if "data" not in state:
        return
    try:
        changes = differences(state["data"], now)
        same_count = len(state["data"]["classes"]) == len(now["classes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{run / STATE} is not a checkpoint of a run; {_REMEDY}") from error
    if changes and not (changed and same_count):
        go_on = "pass --changed-data to go on with it as it is now" if same_count else "a model keeps its classes"
        raise ValueError(
            f"{run} was started with other data: {'; '.join(changes)}: {go_on}, or choose another folder with out=…"
        )


def as_yaml(config: Config) -> str:
    """Every setting as ``config.yaml`` holds it; null is what follows from others."""
    return yaml.safe_dump(config.given(), sort_keys=False, allow_unicode=True)


def write_config(config: Config) -> None:
    """Write ``config.yaml``."""
    write_text(config.run_dir / CONFIG, as_yaml(config))


def write_progress(run: Path, config: Config, progress: Progress, **parts: Mapping[str, Any] | None) -> None:
    """Replace ``state.pt``; an interrupted write leaves the one before."""
    with replacing(run / STATE) as part:
        torch.save({"config": config.resolved(), "progress": asdict(progress), **parts}, part)


def save_weights(path: Path, model: nn.Module, task: Task[Any]) -> None:
    """Write a model's state dict with what is needed to build the model again."""
    settings = task.config.resolved()
    if "mean" in settings:  # in numbers: what a name stands for can change with its library
        settings |= dict(zip(("mean", "std"), map(list, task.statistics(model)), strict=True))
    settings |= {key: portable_name(model, settings[key]) for key in ("backbone", "encoder") if key in settings}
    metadata = {_METADATA: json.dumps({"config": settings, "classes": task.classes})}
    save_safetensors(model.state_dict(), path, metadata)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """State dict, settings and class names from a file of `save_weights`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another program wrote it.
    """
    weights, metadata = load_safetensors(path)
    settings, classes = describe_weights(metadata, path)
    if settings is None or classes is None:
        raise ValueError(
            f"{path} was not written by pst train, and does not say how to build its model: "
            "if it is a YOLO's, make a .pt of it by pst convert"
        )
    return weights, settings, classes


def describe_weights(metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Any] | None, tuple[str, ...] | None]:
    """Settings and class names of the run that wrote a file, from its metadata; None of both if no run did.

    Raises:
        ValueError: The metadata are damaged.
    """
    if _METADATA not in metadata:
        return None, None
    try:
        content = json.loads(metadata[_METADATA])
        settings, classes = _completed(dict(content["config"])), tuple(content["classes"])
        check_statistics(settings.get("mean"), settings.get("std"), settings.get("in_chans", 3))
        named = isinstance(content["classes"], list) and all(
            isinstance(name, str) and name.isprintable() for name in classes
        )
        if isinstance(settings["task"], str) and named and len(set(classes)) == len(classes):
            return settings, classes
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path} is damaged: its metadata {_METADATA} hold no settings and class names of a run")
