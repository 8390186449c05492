"""The process of one cell: it holds the cell's lock, and ends when the cell does, whatever a library left in it."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import Timeout

from lab.study.grid import Cell
from lab.study.result_files import is_done, lock, work_path, write_error, write_result
from lab.study.task import Paused, Task
from pst.io.processes import end_with_parent

FAILED, TAKEN = 74, 75  # exit codes: the error is in the folder; another process has the cell
_NOTE = 100  # bytes


class Order(NamedTuple):
    """What a process is started for.

    Attributes:
        cell: To be run.
        study: Folder of the study's YAML.
        data_root: Folder that data sets are found in.
        out: Folder of results and checkpoints.
        device: "cpu" or "cuda".
        end: Time, as `time.time` gives it, after which the cell stops at its next epoch; None is never.
    """

    cell: Cell
    study: Path
    data_root: Path
    out: Path
    device: str
    end: float | None


class Started:
    """A process that runs a cell.

    Args:
        order: For it.
    """

    def __init__(self, order: Order) -> None:
        context = multiprocessing.get_context("spawn")
        self.order = order
        self._note = context.RawArray("c", _NOTE)
        self.process = context.Process(target=main, args=(order, self._note), name=order.cell.id)
        self.process.start()

    @property
    def note(self) -> str:
        """What the cell's runner said last."""
        return self._note.value.decode(errors="replace")


def main(order: Order, note: Any) -> None:
    """Body of the process; the one that started it ends it on Ctrl+C, and it ends by itself where that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    run_cell(order, note)


def run_cell(order: Order, note: Any) -> None:
    """Run a cell and write its result, or its error; at the deadline neither.

    Raises:
        SystemExit: `FAILED`, or `TAKEN`.
    """
    cell, out = order.cell, order.out
    try:
        with lock(out, cell):
            if not is_done(out, cell) and not _run(order, note):  # done by the one who had the lock before
                raise SystemExit(FAILED)
    except Timeout as error:
        raise SystemExit(TAKEN) from error


def _run(order: Order, note: Any) -> bool:
    """Whether it went well."""
    import torch

    torch.set_num_threads(1)
    cell, out = order.cell, order.out
    task = Task(cell, order.study, order.data_root, work_path(out, cell), order.device, _reporter(note, order.end))
    began = time.perf_counter()
    try:
        result = runner(cell.runner)(task)
    except Paused:
        return True
    except Exception as error:  # the study goes on; the error is kept beside the cell
        write_error(out, cell, repr(error), traceback.format_exc())
        return False
    write_result(out, cell, {**result, "seconds_in_all": round(time.perf_counter() - began, 1)})
    return True


def _reporter(note: Any, end: float | None) -> Callable[[str], None]:
    def say(text: str) -> None:
        note.value = text.encode()[: _NOTE - 1]
        if end is not None and time.time() > end:
            raise Paused

    return say


def runner(name: str) -> Callable[[Task], Mapping[str, Any]]:
    """The function that runs cells of one kind."""
    if name == "ultralytics":
        from lab.study.runners import yolo

        return yolo.run
    if name == "retrieval":
        from lab.study.runners import retrieval

        return retrieval.run
    from lab.study.runners import pst_train

    return pst_train.run
