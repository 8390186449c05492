"""A worker of a study: takes cells from a folder until none is left, and writes their results."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.study.claims import Claim
from lab.study.grid import Cell, load_study
from pst.io.files import write_text
from pst.profile.environment import environment

RESULTS, FAILED, WORK, CLAIMS = "results", "failed", "cells", "claims"
AGAIN = 75  # exit code of a worker after a failed cell: whatever the failure left in its process goes with it


class Paused(Exception):
    """The deadline came; no error: the cell goes on in the next run."""


@dataclass(frozen=True)
class Task:
    """What a runner gets.

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


def result_path(out: Path, cell: Cell) -> Path:
    """Where a cell's result is."""
    return out / RESULTS / f"{cell.id}.json"


def is_done(out: Path, cell: Cell) -> bool:
    """Whether the result is there.

    Raises:
        ValueError: It is there, but of other settings or another model file.
    """
    path = result_path(out, cell)
    if not path.is_file():
        return False
    if not cell.made(json.loads(path.read_text(encoding="utf-8"))):
        raise ValueError(
            f"{path} was made with other settings or another model file: remove it, or choose another folder with --out"
        )
    return True


def _failed(out: Path, cell: Cell, since: float) -> bool:
    path = out / FAILED / f"{cell.id}.json"
    return path.is_file() and path.stat().st_mtime >= since


def work(path: str, data_root: str, out: str, only: str, end: float | None, device: str, since: float) -> None:
    """Body of a worker process: run the cells that nobody else has, each to its result.

    Args:
        path: Study YAML.
        data_root: Folder that data sets are found in.
        out: Folder of the study.
        only: Cells whose id has this in it.
        end: Time after which to stop; None is never.
        device: "cpu" or "cuda".
        since: When the run began: a cell that failed after it is left alone.

    Raises:
        SystemExit: A cell failed; code `AGAIN`.
    """
    import torch

    torch.set_num_threads(1)
    study, folder = load_study(path), Path(out)
    cells = [cell for cell in study.cells if only in cell.id]
    for cell in cells:
        if end is not None and time.time() > end:
            return
        claim = Claim(folder / CLAIMS, cell.id)
        if is_done(folder, cell) or _failed(folder, cell, since) or not claim.acquire():
            continue
        with claim:
            if is_done(folder, cell):  # by the one who had the claim before
                continue
            say = _reporter(claim, end)
            checkpoints = folder / WORK / f"{cell.id}-{cell.training_digest}"
            task = Task(cell, study.folder, Path(data_root), checkpoints, device, say)
            if not _run(task, claim, folder):
                raise SystemExit(AGAIN)


def _reporter(claim: Claim, end: float | None) -> Callable[[str], None]:
    parent = os.getppid()  # changes when the process that supervises this one is killed

    def say(note: str) -> None:
        claim.note = note
        if os.getppid() != parent or (end is not None and time.time() > end):
            raise Paused

    return say


def _run(task: Task, claim: Claim, out: Path) -> bool:
    """Run a cell and write its result; False when it failed, and its error is written instead."""
    failed = out / FAILED / f"{task.cell.id}.json"
    began = time.perf_counter()
    try:
        result = runner(task.cell.runner)(task)
    except Paused:
        return True
    except Exception as error:  # the study goes on; the error is kept beside the cell
        record = {"cell": task.cell.id, "error": repr(error), "traceback": traceback.format_exc(), **environment()}
        write_text(failed, json.dumps(record, indent=1) + "\n")
        return False
    if claim.held():
        seconds = {"seconds_in_all": round(time.perf_counter() - began, 1)}
        whole = {**describe(task.cell), **result, **seconds, **environment()}
        write_text(result_path(out, task.cell), _to_json(whole))
        failed.unlink(missing_ok=True)
    return True


def _to_json(result: Mapping[str, Any]) -> str:
    """Compact, one field a line."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in result.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def describe(cell: Cell) -> dict[str, Any]:
    """The part of a result that is known before the cell is run."""
    return {
        "id": cell.id,
        "digest": cell.digest,
        "model_digest": cell.model_digest,
        "model": cell.model,
        "recipe": cell.recipe,
        "data": cell.data,
        "seed": cell.seed,
        "runner": cell.runner,
        "settings": cell.settings,
    }


def runner(name: str) -> Callable[[Task], Mapping[str, Any]]:
    """The function that runs cells of one kind."""
    if name == "ultralytics":
        from lab.study.runners import yolo

        return yolo.run
    if name == "retrieval":
        from lab.study.runners import retrieval

        return retrieval.run
    from lab.study.runners import trainer

    return trainer.run
