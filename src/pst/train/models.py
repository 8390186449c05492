"""Models of a run: built, set to k, fusion and rule, and read back from a run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import pst
from pst.control.layers import find_attention
from pst.control.statistics import fine_norms
from pst.io.files import explained, first_line
from pst.io.model_config import at_most, check_model_config, model_config_fault
from pst.io.transfer import check_finite, load_weights
from pst.modules import Settings
from pst.train.config import Config
from pst.train.settings import load_config
from pst.train.state import BEST, LAST, STATE, read_weights, save_weights
from pst.train.tasks import make_task
from pst.train.weights import start_from

if TYPE_CHECKING:
    from pst.data.dataset import Images
    from pst.train.tasks.base import Task

_BUILDS = (
    "model",
    "backbone",
    "encoder",
    "neck",
    "finest",
    "fusion",
    "selection",
    "model_args",
)  # settings that build a model


def has_pst(model: nn.Module) -> bool:
    """Whether a model has a PST layer."""
    return bool(find_attention(model))


def set_attention(model: nn.Module, config: Config, **options: Any) -> None:
    """Set every option of every PST layer: as ``options`` say, and where they are None or absent, the configuration.

    A plain model takes k = 0 alone. The fusion "gate", the default, is not asked of a model without a gate at k = 0.

    Raises:
        ValueError: A value is wrong, or k > 0 for a model without PST layers.
    """
    given = {name: value for name, value in options.items() if value is not None}
    asked = {f.name: getattr(config, f.name) for f in fields(Settings) if hasattr(config, f.name)} | given
    if not has_pst(model):
        if asked["topk"]:
            name = type(model).__name__
            raise ValueError(f"{name} has no PST layer: topk must be 0, got {asked['topk']}{_remedy(config)}")
        return
    if not asked["topk"] and asked["fusion"] == "gate":
        del asked["fusion"]
    pst.set_options(model, **asked)


def build(task: Task[Any], *, fresh: bool = True) -> nn.Module:
    """A new model for training, with the settings of its configuration, and its starting weights if ``fresh``."""
    c: Config = task.config
    if fresh and (fault := model_config_fault(c.model_args)):
        raise ValueError(
            f"model_args has {fault}, so the trained model could not be loaded again: leave it out; weights to start "
            "from are given by pretrained=true, weights=… or backbone_weights=…"
        )
    given = getattr(c, "backbone_weights", None) if fresh else None
    model = make_model(task, pretrained=c.pretrained and fresh, backbone_weights=given)
    if c.weights is not None and fresh:
        start_from(task, model, c.weights)
    set_attention(model, c)
    if fresh:
        _check_attention(model, c)
    prepare_attention(
        model,
        track_fine_statistics=c.track_fine_statistics,
        trainable=c.trainable,
        stochastic_topk=c.stochastic_topk,
        stochastic_max_tokens=c.stochastic_max_tokens,
    )
    return model


def _check_attention(model: nn.Module, config: Config) -> None:
    """Refuse settings of PST layers that ``model`` could not follow, or not before training has ended."""
    if config.calibrate:
        fine_norms(model)
    plain = Settings().plain()
    asked = [name for name in plain if hasattr(config, name) and getattr(config, name) != plain[name]]
    if asked and not has_pst(model):
        value = getattr(config, asked[0])
        raise ValueError(f"{type(model).__name__} has no PST layer: leave out {asked[0]}={value}{_remedy(config)}")


def _remedy(config: Config) -> str:
    return "; train one with neck=pst" if hasattr(config, "neck") else ""


def make_model(task: Task[Any], *, pretrained: bool, backbone_weights: str | None = None) -> nn.Module:
    """The model of a task's settings.

    Raises:
        ValueError: It cannot be built; what the library says is in the message.
    """
    made = f"pretrained={str(pretrained).lower()}, model_args={str(task.config.model_args)[:300]}"
    with explained(f"the model cannot be built with {made}"):
        return task.build(pretrained=pretrained, backbone_weights=backbone_weights)


def restore(run: Path, state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give model and optimizer what the checkpoint of a run holds.

    Raises:
        ValueError: It is of others.
    """
    with explained(f"{run / STATE} does not fit the model and optimizer of {run}", passing=()):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])


def prepare_attention(
    model: nn.Module,
    *,
    track_fine_statistics: bool = False,
    trainable: str = "all",
    stochastic_topk: Mapping[str, Any] | None = None,
    stochastic_max_tokens: Mapping[str, Any] | None = None,
    **options: Any,
) -> AbstractContextManager[object]:
    """What is asked of PST layers while they train; to be called before the optimizer is made.

    Args:
        model: It is changed.
        track_fine_statistics: Whether `pst.track_fine_statistics` is switched on.
        trainable: "all", or "gate" for `pst.freeze_except_gate`.
        stochastic_topk: Arguments of `pst.stochastic_topk`; None draws no k.
        stochastic_max_tokens: Arguments of `pst.stochastic_max_tokens`; None draws no bound.
        **options: Fields of `pst.modules.Settings`, for all PST layers.

    Returns:
        Ends the drawing when a with block of it ends.
    """
    if options:
        pst.set_options(model, **options)
    if track_fine_statistics:
        pst.track_fine_statistics(model)
    if trainable == "gate":
        pst.freeze_except_gate(model)
    drawing = ExitStack()
    if stochastic_topk is not None:
        drawing.enter_context(pst.stochastic_topk(model, **stochastic_topk))
    if stochastic_max_tokens is not None:
        drawing.enter_context(pst.stochastic_max_tokens(model, **stochastic_max_tokens))
    return drawing


def calibrate_run(task: Task[Any], model: nn.Module, images: Images, device: torch.device) -> None:
    """Give the fine map its own statistics in ``best`` and ``last``, from the first training images.

    The model of the run ends with the last weights.
    """
    c: Config = task.config
    count = min(c.calibrate * c.batch, len(images))
    for name in (BEST, LAST):
        pst.uncalibrate(model)  # the file says whether there are statistics
        model.load_state_dict(read_weights(c.run_dir / name)[0])
        starts = range(0, count, c.batch)
        batches = (images.__getitems__(range(i, min(i + c.batch, count))).images for i in starts)
        pst.calibrate(model, (task.inputs(batch.to(device)) for batch in batches))
        save_weights(c.run_dir / name, model, task)


def load_trained(source: str | Path, **overrides: Any) -> tuple[Task[Any], nn.Module]:
    """A trained model in eval mode on the CPU, with the k, fusion and rule it was trained with, and its task.

    Args:
        source: Run folder, whose ``best.safetensors`` is taken, or a weights file from one.
        **overrides: Settings that replace those of the run, e.g. ``data`` or ``batch``.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: It was not written by `fit`, or is damaged, or a weight is NaN or infinite.
    """
    path = Path(source)
    file = path / BEST if path.is_dir() else path
    weights, settings, classes = read_weights(file)
    check_model_config({name: settings.get(name) for name in _BUILDS}, file)
    settings |= {"pretrained": False, "weights": None, "data": str(settings.get("data"))}  # it has its own weights
    settings.pop("backbone_weights", None)
    name = str(settings.pop("task", None))
    try:
        workers = load_config(name, overrides=settings).workers
    except ValueError as error:
        raise ValueError(f"{file} is not loaded, its settings are wrong: {first_line(error)}") from error
    settings["workers"] = min(workers, os.cpu_count() or 1)  # a file may ask for a thousand processes
    task = make_task(load_config(name, overrides={**settings, **overrides}), classes)
    try:
        with at_most(sum(t.numel() for t in weights.values()), file):
            model = make_model(task, pretrained=False)
        load_weights(model, weights)
    except ValueError as error:
        said = str(error) if str(file) in str(error) else f"{file} holds other weights than its settings say: {error}"
        raise ValueError(said[:600]) from error
    check_finite(model, file)
    try:
        set_attention(model, task.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not loaded, its settings are wrong: {first_line(error)[:300]}") from error
    return task, model.eval()
