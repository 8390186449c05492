"""Training for comparisons: no validation unasked, checkpoints that survive a kill, a hook on the built model."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import init_seeds, unwrap_model

from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
from lab.study.runners.yolo_bfloat16 import train_in_bfloat16
from pst.integrations.ultralytics.guard import protected
from pst.integrations.ultralytics.plugin import register
from pst.integrations.ultralytics.reproduce import epochs_done
from pst.io.files import replacing, write_text

Prepare = Callable[[nn.Module], None]


class CellTrainer(DetectionTrainer):
    """Ultralytics' detection trainer that spends its time on training alone.

    It writes ``weights/last.pt`` after each epoch, whole or not at all, and goes on from there when it is built again
    with the same ``save_dir``; where the last epoch is done, it begins anew. The random numbers of a continued training
    are not those of an uninterrupted one: Ultralytics keeps none. ``epochs.json`` holds loss and seconds of each epoch,
    and what ``validate`` gave, which should draw no random numbers: the trained weights are then the same without it.

    Args:
        overrides: Arguments of the training, ``model``, ``data`` and ``save_dir`` among them. Unlike the host's, this
            trainer takes ``amp="bf16"`` on the CPU as well.
        prepare: Called with the model after it is built and before it is trained, e.g. to draw k in each step.
        on_epoch: Called with (epochs done, of how many) after each checkpoint but the last; may raise to interrupt.
        validate: Called with a copy of the averaged model in float32 and eval mode; returns its metric.
        val_every: Epochs from one call of ``validate`` to the next; it is also called after the last.

    Raises:
        ValueError: ``val_every`` is below 1.
    """

    def __init__(
        self,
        overrides: dict[str, Any],
        *,
        prepare: Prepare | None = None,
        on_epoch: Callable[[int, int], None] | None = None,
        validate: Callable[[nn.Module], float] | None = None,
        val_every: int = 1,
    ) -> None:
        if val_every < 1:
            raise ValueError(f"val_every is a number of epochs, at least 1, got {val_every!r}")
        register()
        self._validate, self._val_every = validate, val_every
        self.prepare, self._on_epoch = prepare, on_epoch
        last = Path(overrides["save_dir"]) / "weights" / "last.pt"
        resume = {"model": str(last), "resume": str(last)} if _unfinished(last) else {}
        self._bfloat16 = overrides.get("amp") == "bf16" and str(overrides.get("device")) == "cpu"
        host = {"amp": False} if self._bfloat16 else {}
        with protected():
            super().__init__(overrides={**_QUIET, **overrides, **host, **resume})
        self.log_path = self.save_dir / "epochs.json"
        logged = bool(resume) and self.log_path.is_file()
        self.log: list[dict[str, float]] = json.loads(self.log_path.read_text()) if logged else []
        self._epoch_began = 0.0
        self.add_callback("on_train_epoch_start", _begin)
        self.add_callback("on_fit_epoch_end", _end)

    def train(self) -> Any:
        """Train, and execute nothing that a file holds."""
        with protected():
            return super().train()

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> Any:
        """The host's model, prepared before weights are loaded, so that what ``prepare`` adds is loaded as well."""
        model = super().get_model(cfg, None, verbose)
        if self._bfloat16:
            train_in_bfloat16(model)
        if self.prepare is not None:
            self.prepare(model)
        if weights is not None:
            model.load(weights)
        return model

    def save_model(self) -> Any:
        """Write ``last.pt`` atomically, and no ``best.pt``: without validation there is none."""
        last, best = self.last, self.best
        with replacing(last) as part:
            self.last = self.best = part
            try:
                return super().save_model()
            finally:
                self.last, self.best = last, best

    def validate(self) -> Any:
        """Nothing: the trained model is evaluated once, by whoever trains it."""
        return self.metrics, 0.0

    def final_eval(self) -> None:
        """Nothing, for the same reason."""

    def read_results_csv(self) -> dict[str, Any]:
        """Nothing: `log` has what is needed, and the host reads its table with a library that may be missing."""
        return {}

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(Epochs done, what ``validate`` gave then)."""
        return [(i, row["value"]) for i, row in enumerate(self.log, 1) if "value" in row]

    def trained(self) -> nn.Module:
        """The averaged model (EMA) in float32 and eval mode, on the training's device."""
        average: Any = self.ema
        return unwrap_model(average.ema).float().eval()


_QUIET = {
    "task": "detect",
    "mode": "train",
    "val": False,
    "plots": False,
    "pretrained": False,
    "verbose": False,
    "exist_ok": True,
}


def _unfinished(last: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    if not last.is_file():
        return False
    done, epochs = epochs_done(last)
    return done < epochs


def _begin(trainer: CellTrainer) -> None:
    trainer._epoch_began = time.perf_counter()


def _end(trainer: CellTrainer) -> None:
    loss = sum(float(v) for v in trainer.tloss.values()) if trainer.tloss else float("nan")
    seconds = time.perf_counter() - trainer._epoch_began
    trainer.log = [*trainer.log[: trainer.epoch], {"loss": round(loss, 4), "seconds": round(seconds, 2)}]
    write_text(trainer.log_path, json.dumps(trainer.log))
    done = trainer.epoch + 1
    if trainer._validate is not None and (done % trainer._val_every == 0 or done == trainer.epochs):
        trainer.log[-1]["value"] = round(trainer._validate(copy.deepcopy(trainer.trained())), 5)
        write_text(trainer.log_path, json.dumps(trainer.log))
    if trainer._on_epoch is not None and done < trainer.epochs:  # of the last, there is no going on
        trainer._on_epoch(done, trainer.epochs)


def batches(model: nn.Module, overrides: dict[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """One epoch of training batches on the model's device, without mosaic, for tuning or calibrating a trained model.

    Args:
        model: A detector of Ultralytics; gets the arguments that its loss needs.
        overrides: Arguments of its training.
        seed: Of order and augmentation.

    Yields:
        Batches as the model's ``loss`` takes them; ``batch["img"]`` is (B, 3, H, W) float32 in [0, 1].
    """
    trainer = CellTrainer({**overrides, "mosaic": 0.0, "close_mosaic": 0})
    init_seeds(seed)
    trainer.model = model
    trainer.set_model_attributes()
    loader = trainer.get_dataloader(trainer.data["train"], batch_size=trainer.args.batch, rank=-1, mode="train")
    for batch in loader:
        yield trainer.preprocess_batch(batch)


def tune_gate(model: nn.Module, parameters: list[nn.Parameter], data: Iterator[dict[str, Any]], lr: float) -> float:
    """One pass of AdamW over ``parameters`` alone; everything else must have been frozen.

    Returns:
        Mean loss of the pass.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    losses: list[float] = []
    for batch in data:
        loss = model(batch)[0].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)
