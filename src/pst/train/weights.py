"""Starting a run from the weights of another one, which may have had other classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from torch import nn

from pst.backbones.channels import per_channel
from pst.io.checkpoints import load_safetensors
from pst.io.names import counted, listed
from pst.io.transfer import check_finite, class_entries, load_weights
from pst.train.log import LOG
from pst.train.state import BEST, describe_weights, in_shell
from pst.train.tasks import make_task

if TYPE_CHECKING:
    from pst.train.tasks.base import Task

_MODEL = ("task", "model", "backbone", "encoder", "neck", "finest", "in_chans")  # settings that say which model it is


def start_from(task: Task[Any], model: nn.Module, source: str | Path) -> None:
    """Load what a run is to start from, and log what the model keeps of its own, or that the classes differ.

    ``source`` is a run folder, whose ``best.safetensors`` is taken, or a safetensors file with the model's entries. The
    class layers may be of another number of classes: those stay as they are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a safetensors file; the weights are those of another model, which the message names; or
            the class layers are left fresh and would not train.
    """
    path = Path(source)
    path = path / BEST if path.is_dir() else path
    state, metadata = load_safetensors(path)
    settings, classes = describe_weights(metadata, path)
    try:
        fresh = load_weights(model, state, lambda: _class_entries(task))
    except ValueError as error:
        wanted = task.config.resolved()
        theirs = "a model unknown to pst train" if settings is None else _named(settings, wanted)
        raise ValueError(
            f"weights={path} are of {theirs}, not of this run's model, {_named(wanted, settings)}: {error}"
        ) from error
    check_finite(model, f"weights={path}")
    if settings is not None:
        _warn_of_statistics(path, settings, task, model)
    if fresh and task.config.trainable == "gate":
        raise ValueError(
            f"weights={path} have other classes, so {fresh[0]} starts anew, and trainable=gate would leave it "
            "untrained: train with trainable=all first"
        )
    if PartialState().is_main_process:
        _report(path, classes, task.classes, fresh)


def _warn_of_statistics(path: Path, theirs: dict[str, Any], task: Task[Any], model: nn.Module) -> None:
    """Say so where the weights were trained on images that were normalised otherwise than those of this run."""
    channels, other = task.config.in_chans, []
    for name, now in zip(("mean", "std"), task.statistics(model), strict=True):
        before = theirs.get(name)
        if before is not None and per_channel(before, channels) != per_channel(now, channels):
            other.append(in_shell(name, before))
    if other and PartialState().is_main_process:
        LOG.warning("%s was trained with %s, this run has others: give these to go on with them", path, " ".join(other))


def _class_entries(task: Task[Any]) -> set[str]:
    def build(count: int) -> nn.Module:
        return make_task(task.config, tuple(map(str, range(count)))).build(pretrained=False)

    return class_entries(build, len(task.classes))


def _report(path: Path, theirs: tuple[str, ...] | None, ours: tuple[str, ...], fresh: list[str]) -> None:
    if fresh:
        those = "another number of classes" if theirs is None else counted(len(theirs), "class", "classes")
        LOG.warning("%s has %s, the data %d: left fresh are %s", path, those, len(ours), ", ".join(fresh))
    elif theirs is not None and theirs != ours:
        LOG.warning(
            "%s has the classes %s, the data %s: all weights are loaded, those of the class layers too",
            path,
            listed(theirs),
            listed(ours),
        )


def _named(settings: dict[str, Any], other: dict[str, Any] | None) -> str:
    """Task and model of a run in words, without what both have in common."""
    names = [n for n in _MODEL if n in settings and (other is None or settings[n] != other.get(n) or n == "task")]
    return ", ".join(f"the default {n}" if settings[n] is None else f"{n} {settings[n]}" for n in names)
