"""The training loop: everything between a configuration and the weights of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import skip_first_batches
from torch import nn

from pst.data.dataset import Batch
from pst.train.batches import Order, dealt, epoch_bar, training_loader, worker_errors
from pst.train.checks import check_batch, check_disk, check_folder, check_names, check_optimizer, check_precision
from pst.train.config import Config
from pst.train.evaluate import predict
from pst.train.identity import identify
from pst.train.log import Logger
from pst.train.losses import Step, stop_if_not_finite
from pst.train.models import build, calibrate_run, restore
from pst.train.schedule import make_optimizer, schedule
from pst.train.start import seed_step, start
from pst.train.state import BEST, LAST, check_data, read_progress, save_weights, write_config, write_progress
from pst.train.tasks import make_task


def fit(config: Config, *, resume: bool = False, changed_data: bool = False) -> Path:
    """Train a model.

    Run under ``torchrun`` or ``accelerate launch`` it trains in all their processes, with ``batch`` images in each; the
    process group is left open for what comes next.
    On the CPU a run that was killed and continued ends with the same weights, bit for bit, as one that was not. All
    that can be known before training is checked before anything is written.

    Args:
        config: From `load_config`.
        resume: Continue the run in the folder, if there is one; a finished run is left as it is.
        changed_data: Continue it although the data are not those that it was started with. They may lie elsewhere.

    Returns:
        The run folder: ``best.safetensors``, ``last.safetensors``, ``config.yaml``, ``results.csv``, ``state.pt``.

    Raises:
        FileExistsError: The folder holds a run and ``resume`` is not set, or files that a run would replace.
        FileNotFoundError: Data or weights are missing.
        WriteError: The disk is full.
        ValueError: Data or settings are wrong; the message says what to do.
        LossError: The loss is NaN or infinite; the batch was saved.
    """
    run = config.run_dir
    trainer = Trainer(config, resume=resume, changed_data=changed_data)
    progress = trainer.progress
    with closing(Logger(run, step=progress.step, tensorboard=config.tensorboard, enabled=trainer.main)) as logger:
        left = int(trainer.steps) - progress.step
        logger.begin(len(trainer.train), len(trainer.val), progress, left, resume=resume)
        while not trainer.done:
            trainer.train_epoch()
            trainer.finish_epoch()
            logger.write(progress.history, progress.step)
    trainer.finish()
    return run


class Trainer:
    """Model, data, optimizer and position of one run. Arguments as in `fit`.

    Attributes:
        bare: The model itself, where ``model`` is what the processes share.
        steps: Optimizer steps of the whole run.
    """

    def __init__(self, config: Config, *, resume: bool, changed_data: bool = False) -> None:
        check_names(config)
        check_folder(config.run_dir, resume=resume)
        self.progress, state, config = read_progress(config.run_dir, config)
        self.config = config
        self.accelerator = start(config)
        check_precision(config, self.accelerator.device, state)
        self.task = make_task(config)
        self.train, self.val = self.task.dataset("train"), self.task.dataset("val")
        self.data = identify(self.task)
        if state is not None:
            check_data(config.run_dir, state, self.data, changed=changed_data)
        seed_step(config.seed)
        model = build(self.task, fresh=state is None).to(self.accelerator.device)
        optimizer = make_optimizer(model, config)
        if state is None:
            check_optimizer(config, self.accelerator.device)
            check_batch(self.task, model, self.train, self.accelerator.device)
        else:
            restore(config.run_dir, state, model, optimizer)
        check_disk(config.run_dir, model)
        self.order = Order(len(self.train), config.seed)
        loader = training_loader(self.train, self.order, config, self.accelerator)
        self.bare: nn.Module = model
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.loader = self.accelerator.prepare_data_loader(loader, device_placement=False)  # see Batch.to
        if state is not None and state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        updates = math.ceil(len(self.loader) / config.accumulate)
        self.steps = min(config.epochs * updates, config.max_steps or math.inf)
        self.scheduler = schedule(optimizer, config, updates)
        self._set_rate()
        self.accelerator.wait_for_everyone()
        if self.main:
            check_folder(config.run_dir, resume=resume)  # another run may have begun in it meanwhile
            write_config(config)  # the first file: no check comes after it

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.accelerator.is_main_process

    @property
    def done(self) -> bool:
        """Whether all is trained, and the last epoch validated as well."""
        return self.progress.step >= self.steps and not self.progress.batch

    def _set_rate(self) -> None:
        if self.scheduler is not None:
            self.scheduler.step_update(self.progress.step)

    def train_epoch(self) -> None:
        """Train on what is left of the epoch."""
        c, progress = self.config, self.progress
        if progress.step >= self.steps:
            return  # trained before the run was stopped, and not validated yet
        self.model.train()
        sums: dict[str, Any] = dict(progress.sums)
        previous: Step | None = None
        began = time.perf_counter()
        with worker_errors(), closing(self._batches()) as batches:  # its bar goes before an error is shown
            for batch in batches:
                seed_step(c.seed, progress.epoch, progress.batch, self.accelerator.process_index)
                with self.accelerator.accumulate(self.model):
                    inputs, targets = self.task.augment(batch.to(self.accelerator.device))
                    losses = self.task.losses(self.model, inputs, targets)
                    self.accelerator.backward(torch.stack(list(losses.values())).sum())
                    if c.clip_grad and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), c.clip_grad)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                self._check(previous)  # its loss has been computed by now, so that a GPU need not wait for this
                previous = Step(losses, inputs, targets, batch.indices)
                sums = {name: sums.get(name, 0.0) + value.detach().float() for name, value in losses.items()}
                progress.batch += 1
                if self.accelerator.sync_gradients:
                    progress.step += 1
                    self._set_rate()
                    if c.save_steps and progress.step % c.save_steps == 0:
                        self._check(previous)
                        began = progress.note(sums, began)
                        self._save()
                    if progress.step >= self.steps:
                        break
        self._check(previous)
        progress.note(sums, began)

    def _batches(self) -> Generator[Batch]:
        """The rest of the epoch, with a progress bar on a terminal."""
        done, self.order.epoch = self.progress.batch, self.progress.epoch
        loader = dealt(skip_first_batches(self.loader, done) if done else self.loader)
        yield from epoch_bar(loader, len(self.loader), int(self.steps), self.progress, self.config, self.main)

    def _check(self, step: Step | None) -> None:
        file = f"bad-batch-{self.accelerator.process_index}.pt"
        stop_if_not_finite(step, self.train.files, self.config.run_dir / file)

    def finish_epoch(self) -> None:
        """Write the checkpoint, then validate where that is due: what was trained outlives a validation that fails."""
        progress, c = self.progress, self.config
        row = {"epoch": progress.epoch + 1, "step": progress.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {f"loss_{name}": total / progress.batch for name, total in progress.sums.items()}
        row["seconds"] = round(progress.seconds, 2)
        due = (progress.epoch + 1) % c.val_every == 0 or progress.step >= self.steps
        if due:
            self._save()
            row |= {f"val_{name}": value for name, value in self._validate().items()}
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        progress.history.append(row)
        self._save(weights=not due)

    def finish(self) -> None:
        """Calibrate what was trained."""
        if self.config.calibrate and self.main and not self.progress.calibrated:
            calibrate_run(self.task, self.bare, self.train, self.accelerator.device)
            self.progress.calibrated = True
            self._save()
        self.accelerator.wait_for_everyone()

    def _validate(self) -> dict[str, float]:
        records, _ = predict(self.task, self.bare.eval(), self.val, self.accelerator)
        metrics = self.task.metrics(records, self.task.split("val"))
        if not metrics[self.task.metric] <= self.progress.best:  # NaN, nothing to measure: the latest is the best
            self.progress.best = metrics[self.task.metric]
            if self.main:
                save_weights(self.config.run_dir / BEST, self.bare, self.task)
        return metrics

    def _save(self, *, weights: bool = True) -> None:
        """Weights first: a run that is killed in between writes them again."""
        if not self.main:
            return
        if weights:
            save_weights(self.config.run_dir / LAST, self.bare, self.task)
        write_progress(
            self.config.run_dir,
            self.config,
            self.progress,
            data=self.data,
            model=self.bare.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        )
