"""What a run says: its data before the first step, a line an epoch."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import closing

import pytest

from pst.train import fit, load_config, loop
from pst.train.batches import epoch_bar
from pst.train.log import Logger
from pst.train.state import Progress
from terminal import terminal_without_size
from train_runs import settings, stopping


def test_a_run_says_first_what_it_trains_with(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="pst.train"):
        fit(load_config("classify", overrides=settings("classify", tmp_path, epochs=1, max_steps=2)))
        fit(load_config("classify", overrides=settings("classify", tmp_path / "one", epochs=1, max_steps=1)))
    assert "images to train with" in caplog.messages[0]
    ends = [line.partition("; ")[2] for line in caplog.messages if "to train with" in line]
    assert ends == ["2 steps to go", "1 step to go"]


@pytest.mark.parametrize(
    ("more", "progress", "title", "total"),
    [
        ({}, Progress(), "epoch 1/50", 45),
        ({"max_steps": 4}, Progress(), "epoch 1/1", 4),
        ({"max_steps": 4, "accumulate": 2}, Progress(batch=2, step=1), "epoch 1/1", 8),
        ({"max_steps": 47}, Progress(epoch=1, step=45), "epoch 2/2", 2),
        ({"max_steps": 46, "accumulate": 2}, Progress(epoch=1, step=23), "epoch 2/2", 45),
    ],
)
def test_the_bar_is_as_long_as_what_will_be_done(more, progress, title, total, monkeypatch):
    monkeypatch.setattr("pst.train.batches.bar", lambda _, shown, **look: (shown, look["total"], look["done"]))
    config = load_config("classify", overrides={"data": "d", **more})
    assert epoch_bar([], 45, more.get("max_steps", 50 * 45), progress, config, enabled=True) == (
        title, total, progress.batch
    )  # fmt: skip


def test_sizes_and_single_classes_are_not_in_the_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="pst.train"):
        Logger(tmp_path, step=0, tensorboard=False, enabled=True).write(
            [
                {
                    "epoch": 1,
                    "val_map": 0.25,
                    "val_map75": 0.2,
                    "val_map_small": -1.0,
                    "val_map_large": 0.3,
                    "val_iou_sky": 0.5,
                }
            ],
            1,
        )
    assert caplog.messages == ["epoch 1  val_map 0.25"]
    assert "-1.0" in (tmp_path / "results.csv").read_text()


def interrupted(root, monkeypatch, batches):
    """A classification of two epochs, three steps each, that is interrupted after so many batches."""

    def stop():
        raise KeyboardInterrupt

    config = load_config("classify", overrides=settings("classify", root, save_steps=2))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "seed_step", stopping(loop.seed_step, batches, stop))
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    return config


@pytest.mark.parametrize(
    ("batches", "start"),
    [
        (1, "6 steps to go"),
        (2, "resumed after step 2, in epoch 1: 4 steps to go"),
        (3, "resumed after epoch 1: 3 steps to go"),
    ],
)
def test_a_resumed_run_says_from_where(batches, start, tmp_path, monkeypatch, caplog):
    config = interrupted(tmp_path, monkeypatch, batches)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="pst.train"):
        fit(config, resume=True)
    first, *others = caplog.messages
    if batches == 1:
        assert first == f"there is no run to resume in {config.run_dir}, so a new one starts"
        first = others[0]
    assert first.endswith(f" to validate with; {start}")


def test_a_finished_run_says_so(tmp_path, caplog):
    config = load_config("classify", overrides=settings("classify", tmp_path, epochs=1))
    fit(config)
    caplog.clear()  # a test before this one may have turned its lines on
    with caplog.at_level(logging.INFO, logger="pst.train"):
        fit(config, resume=True)
    assert caplog.messages == ["the run is finished already: 3 steps are done"]


@pytest.fixture
def terminal():
    with terminal_without_size() as found:
        yield found


def test_an_epoch_has_a_bar_on_a_terminal_of_unknown_width(terminal, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(load_config("classify", overrides=settings("classify", tmp_path, epochs=1)))
    assert "epoch 1/1:   0%|" in terminal.getvalue()
    assert "0/3 [" in terminal.getvalue()
    assert terminal.getvalue().rpartition("\r")[2] == ""


def test_the_bar_is_gone_when_a_run_is_interrupted(terminal, tmp_path, monkeypatch):
    def stop():
        assert "0/3 [" in terminal.getvalue()
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(loop, "seed_step", stopping(loop.seed_step, 2, stop))
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(load_config("classify", overrides=settings("classify", tmp_path)))
    assert terminal.getvalue().rpartition("\r")[2] == ""
    assert caught.tb is not None  # as for the command's message, the frames are still there


def test_a_resumed_run_takes_the_place_of_what_lies_after_its_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = [{"epoch": 1, "loss": 0.5}]
    with closing(Logger(tmp_path, step=0, tensorboard=True, enabled=True)) as logger:
        for step in (1, 2, 3):
            logger.write(history, step)
    time.sleep(1.1)  # files are named by the second
    with closing(Logger(tmp_path, step=2, tensorboard=True, enabled=True)) as logger:
        logger.write([{"epoch": 1, "loss": 0.25}], 3)
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 0.5), (3, 0.25)]
