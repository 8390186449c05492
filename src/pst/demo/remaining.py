"""How long a demo has still to go, judged by what its epochs and evaluations took so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pst.integrations.ultralytics import YOLO


class Remaining:
    """Measures epochs and evaluations as they pass, and says after each what is left.

    Until the first evaluation, one is taken to last as long as the validation that ends an epoch.

    Args:
        evaluations: That are still to be done after the training.
        say: Prints a line.
    """

    def __init__(self, evaluations: int, say: Callable[[str], None]) -> None:
        self._evaluations, self._say = evaluations, say
        self._epochs: list[float] = []  # seconds of each
        self._validations: list[float] = []
        self._began = self._trained = 0.0

    def watch(self, yolo: YOLO) -> None:
        """Follow the training of a YOLO object."""
        yolo.add_callback("on_train_epoch_start", lambda _: self._start())
        yolo.add_callback("on_train_epoch_end", lambda _: self._validate())
        yolo.add_callback("on_model_save", lambda trainer: self._end(trainer.epoch + 1, trainer.epochs))

    def evaluated(self, seconds: float) -> None:
        """Count an evaluation."""
        if self._epochs:  # the first after a training: from now on only these count
            self._epochs, self._validations = [], []
        self._validations.append(seconds)
        self._evaluations -= 1
        if self._evaluations > 0:
            self._say(f"{words(self._evaluations * fmean(self._validations))} left")

    def _start(self) -> None:
        self._began = time.perf_counter()

    def _validate(self) -> None:
        self._trained = time.perf_counter()

    def _end(self, done: int, of: int) -> None:
        now = time.perf_counter()
        self._epochs.append(now - self._began)
        self._validations.append(now - self._trained)
        last = 1  # Ultralytics validates the best model once more
        seconds = (of - done) * fmean(self._epochs) + (self._evaluations + last) * fmean(self._validations)
        self._say(f"epoch {done}/{of}, {words(seconds)} left")


def words(seconds: float) -> str:
    """A duration as people say it."""
    return "less than a minute" if seconds < 60 else f"about {math.ceil(seconds / 60)} min"
