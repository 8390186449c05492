"""Where a run's figures go: a CSV file, TensorBoard, one line an epoch."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pst.io.files import write_text
from pst.io.names import counted
from pst.train.state import RESULTS, Progress

LOG = logging.getLogger("pst.train")


class Logger:
    """Writes one row for each epoch, until it is closed.

    Args:
        run: Folder.
        step: Optimizer steps so far; TensorBoard forgets later points, which a killed run wrote and will write again.
        tensorboard: Write its files.
        enabled: False in all processes but one.
    """

    def __init__(self, run: Path, *, step: int, tensorboard: bool, enabled: bool) -> None:
        self._run, self._enabled, self._board = run, enabled, None
        if tensorboard and enabled:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(run), purge_step=step + 1)

    def begin(self, train: int, val: int, progress: Progress, left: int, *, resume: bool) -> None:
        """Say how many images there are, from where the run goes on, and that ``left`` steps are left, if any are."""
        if not self._enabled:
            return
        if not left and not progress.batch:
            LOG.info("the run is finished already: %s done", counted(progress.step, "step is", "steps are"))
            return
        if resume and not progress.step:
            LOG.warning("there is no run to resume in %s, so a new one starts", self._run)
        since = f"resumed {progress.position}: " if resume and progress.step else ""
        LOG.info(
            "%s to train with, %d to validate with; %s%s to go",
            counted(train, "image"), val, since, counted(left, "step"),
        )  # fmt: skip

    def write(self, history: Sequence[Mapping[str, float]], step: int) -> None:
        """Report the last row of ``history`` and write all of it to the CSV file."""
        if not self._enabled:
            return
        row = history[-1]
        write_text(self._run / RESULTS, _csv(history))
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
        LOG.info("  ".join(f"{name} {value:.4g}" for name, value in row.items() if _is_shown(name)))

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self._board is not None:
            self._board.close()


def _is_shown(name: str) -> bool:
    """Not what makes the line long: the IoU of single classes, AP at 0.75 and by size; the CSV file has them."""
    return not any(part in name for part in ("iou_", "map75", "map_"))


def _csv(history: Sequence[Mapping[str, float]]) -> str:
    """Rows under all names that occur; a validation that was not due leaves its cells empty."""
    names = list(dict.fromkeys(name for row in history for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    writer.writerows(history)
    return table.getvalue()
