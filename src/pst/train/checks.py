"""What can be known before training is checked before it, and before anything is written."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from pst.data.dataset import Images
from pst.data.paths import is_there
from pst.functional.selection import check_selection
from pst.io import files
from pst.io.names import counted, nearest
from pst.io.versions import is_installed, pip
from pst.train.config import ClassifyConfig, Config
from pst.train.log import LOG
from pst.train.schedule import make_optimizer
from pst.train.state import BEST, CONFIG, LAST, RESULTS, STATE, read_state
from pst.train.tasks import make_task
from pst.train.tasks.base import Task

_MARK = "stochastic_topk:"  # in the configuration of a run


def check_folder(run: Path, *, resume: bool) -> None:
    """Refuse a run folder that would lose something.

    Raises:
        FileExistsError: It holds a run and ``resume`` is not set, or files that a run would replace.
        NotADirectoryError: It is a file.
    """
    files.check_folder(run)
    if (run / CONFIG).exists() and not resume:
        raise FileExistsError(f"{run} holds a run: pass --resume to continue it, or choose another folder with out=…")
    files.check_ours(run / CONFIG, _MARK)
    there = [name for name in (BEST, LAST, RESULTS, STATE) if (run / name).exists()]
    if there and not (run / CONFIG).exists() and not (resume and STATE in there):
        raise FileExistsError(f"{run} holds {there[0]}, which a run would replace: choose another folder with out=…")


def check_names(config: Config) -> None:
    """Look up every name of a configuration: data, model, optimizer, schedule, selection rule, file of weights.

    Raises:
        FileNotFoundError: The data, or the file of the backbone's weights, do not exist.
        ImportError: TensorBoard is asked for and not installed.
        ValueError: A name is unknown; the message has the nearest.
    """
    import timm
    from timm.optim import get_optimizer_info, list_optimizers

    if not is_there(Path(config.data)):
        make_task(config)  # its reader says what is missing
    check_selection(config.selection)
    optimizer = config.optimizer.lower().rpartition("lookahead_")[2]
    known: Any = list_optimizers()
    if optimizer not in known:
        raise ValueError(f"timm has no optimizer {config.optimizer!r}{nearest(optimizer, known)}")
    if get_optimizer_info(optimizer).second_order:
        raise ValueError(
            f"{config.optimizer} needs second derivatives, which are not computed: choose another optimizer"
        )
    if isinstance(config, ClassifyConfig):
        import_module("pst.integrations.timm")  # registers the pst_… models
        if not timm.is_model(config.model):
            raise ValueError(f"timm has no model {config.model!r}{nearest(config.model, timm.list_models())}")
    given = getattr(config, "backbone_weights", None)
    if given is not None:
        files.check_file(given, "weights", "backbone_weights is a .safetensors file, or one of torch.save")
    if config.tensorboard and not is_installed("tensorboard"):
        raise ImportError(f"tensorboard is not installed: pass tensorboard=false, or {pip()} install tensorboard")


def check_optimizer(config: Config, device: torch.device) -> None:
    """Train a few numbers, and read what the optimizer then holds as a run that goes on does.

    Raises:
        ValueError: It cannot be read: such a run could not be resumed.
    """
    model = nn.Linear(2, 2, device=device)
    optimizer = make_optimizer(model, config)
    model(torch.ones(1, 2, device=device)).sum().backward()
    optimizer.step()
    with TemporaryDirectory() as folder:
        torch.save(optimizer.state_dict(), Path(folder) / STATE)
        try:
            read_state(Path(folder) / STATE)
        except ValueError as error:
            said = str(error).partition("is not loaded: ")[2].partition(";")[0]
            name = config.optimizer
            raise ValueError(
                f"a run with optimizer={name} could not be resumed, choose another: of its state.pt {said}"
            ) from error


def check_precision(config: Config, device: torch.device, state: dict[str, Any] | None) -> None:
    """Refuse fp16 on a CPU, where training would be in float32; a run of an earlier version that was so goes on.

    Raises:
        ValueError: It is asked for.
    """
    if config.amp == "fp16" and device.type == "cpu" and (state is None or state["scaler"] is not None):
        raise ValueError(
            "amp=fp16 is for GPUs, and there is none for this run: a CPU would train in float32. Choose amp=bf16 or "
            "amp=none, and resume a run where it began"
        )


def check_batch(task: Task[Any], model: nn.Module, images: Images, device: torch.device) -> None:
    """Put the first images through a copy of the model, as a training step would.

    Raises:
        ValueError: Model, image size and batch size do not fit each other.
    """
    c: Config = task.config
    if c.batch > len(images):
        LOG.warning("batch=%d is more than the %d training images: each epoch is one step", c.batch, len(images))
    batch = images.__getitems__(range(min(c.batch, len(images)))).to(device)
    count = counted(len(batch.indices), "image")
    sizes = f"batch={c.batch} ({count}), imgsz={c.imgsz}, model_args={str(c.model_args)[:300]}"
    with files.explained(f"the model cannot be trained with {sizes}", passing=()), torch.no_grad():
        inputs, targets = task.augment(batch)
        task.losses(copy.deepcopy(model).train(), inputs, targets)


def check_disk(run: Path, model: nn.Module) -> None:
    """Refuse a run whose files do not fit on the disk: weights twice, and everything once more while it is written.

    Raises:
        WriteError: They do not.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)  # of most optimizers
    there = sum((run / name).stat().st_size for name in (BEST, LAST, STATE) if (run / name).is_file())
    files.check_space(run, max(weights + moments, 2 * (2 * weights + moments) - there))
