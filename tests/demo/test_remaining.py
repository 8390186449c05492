"""How long is left, from clocks that are set by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pst.demo import remaining
from pst.demo.remaining import Remaining, words


class Training:
    """Stands in for a YOLO object: keeps callbacks, and an epoch calls them at the times that it is given."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}
        self.now = 100.0

    def add_callback(self, event: str, callback: Any) -> None:
        self.callbacks[event] = callback

    def epoch(self, number: int, of: int, train: float, validate: float) -> None:
        trainer = SimpleNamespace(epoch=number, epochs=of)
        for event, seconds in (("on_train_epoch_start", train), ("on_train_epoch_end", validate), ("on_model_save", 0)):
            self.callbacks[event](trainer)
            self.now += seconds


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    training = Training()
    monkeypatch.setattr(remaining.time, "perf_counter", lambda: training.now)
    return training


def test_epochs_and_evaluations_are_judged_by_those_that_passed(training: Any) -> None:
    said: list[str] = []
    left = Remaining(7, said.append)
    left.watch(training)
    training.epoch(0, 3, train=80, validate=20)
    training.epoch(1, 3, train=100, validate=40)
    training.epoch(2, 3, train=100, validate=30)
    for _ in range(7):
        left.evaluated(50)
    assert said[:3] == [
        "epoch 1/3, about 6 min left",  # two epochs of 100 s, seven evaluations and a last validation of 20 s
        "epoch 2/3, about 6 min left",  # one of 120 s, eight of 30 s
        "epoch 3/3, about 4 min left",  # eight of 30 s
    ]
    assert said[3:5] == ["about 5 min left", "about 5 min left"]  # six and five of 50 s: those of the training are past
    assert said[8:] == ["less than a minute left"]  # one of 50 s; nothing is left after the last


def test_a_resumed_demo_that_only_evaluates_says_so_too() -> None:
    said: list[str] = []
    left = Remaining(3, said.append)
    left.evaluated(100)
    left.evaluated(300)
    left.evaluated(100)
    assert said == ["about 4 min left", "about 4 min left"]  # two of 100 s; one of 200 s on average


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "less than a minute"), (59, "less than a minute"), (60, "about 1 min"), (61, "about 2 min")],
)
def test_durations_in_words(seconds: float, expected: str) -> None:
    assert words(seconds) == expected
