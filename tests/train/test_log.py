"""What a run says: its data before the first step, a line an epoch."""

from __future__ import annotations

import logging

from pst.train import fit, load_config
from pst.train.log import Logger
from train_runs import settings


def test_a_run_says_first_what_it_trains_with(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="pst.train"):
        fit(load_config("classify", overrides=settings("classify", tmp_path, epochs=1, max_steps=2)))
    assert "images to train with" in caplog.messages[0]
    assert caplog.messages[0].endswith("2 steps to go")


def test_sizes_without_objects_and_single_classes_are_not_in_the_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="pst.train"):
        Logger(tmp_path, step=0, tensorboard=False, enabled=True).write(
            [{"epoch": 1, "val_map": 0.25, "val_map_small": -1.0, "val_iou_sky": 0.5}], 1
        )
    assert caplog.messages == ["epoch 1  val_map 0.25"]
    assert "-1.0" in (tmp_path / "results.csv").read_text()
