"""What a runner is given to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.study.grid import Cell


class Paused(Exception):
    """The deadline came; no error: the cell goes on in the next run."""


@dataclass(frozen=True)
class Task:
    """One cell, and where its runner finds and leaves things.

    Attributes:
        cell: What to do.
        study: Folder of the study's YAML.
        data_root: Folder that data sets are found in.
        work: Folder for checkpoints; what an interrupted run of the cell left is there, unless its settings changed.
        device: "cpu" or "cuda".
        say: To be called now and then with what is being done, e.g. "epoch 3/40"; raises `Paused` at the deadline.
    """

    cell: Cell
    study: Path
    data_root: Path
    work: Path
    device: str
    say: Callable[[str], None]
