"""One small demo for all tests: interrupted while training, then resumed and finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pst.data import digits
from pst.demo import run, stages

EPOCHS = 2


class Finished(NamedTuple):
    """A finished run: its folder, its arguments, and what lay there when it was interrupted after one epoch."""

    root: Path
    arguments: dict[str, Any]
    interrupted: dict[str, bytes]


def read_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("demo")
    data = digits.make(folder / "data", train=8, val=3, imgsz=64)
    arguments = {"data": data, "imgsz": 64, "epochs": EPOCHS, "batch": 4, "out": folder / "out", "workers": 0}

    def interrupt(trainer) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    watch = stages._watch

    def watch_and_interrupt(yolo, workspace) -> None:
        watch(yolo, workspace)
        yolo.add_callback("on_train_batch_end", interrupt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_watch", watch_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(**arguments)
    interrupted = read_files(folder / "out")
    run(**arguments)
    return Finished(folder / "out", arguments, interrupted)
