"""The folder of a study: a result or an error for each cell, a lock while it is worked on, its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lab.study.grid import Cell
from pst.io.files import write_text
from pst.profile.environment import environment

RESULTS, FAILED, WORK, LOCKS = "results", "failed", "cells", "locks"


def make_folders(out: Path) -> None:
    """Make those of a study."""
    for name in (RESULTS, FAILED, WORK, LOCKS):
        (out / name).mkdir(parents=True, exist_ok=True)


def result_path(out: Path, cell: Cell) -> Path:
    """Where a cell's result is."""
    return out / RESULTS / f"{cell.id}.json"


def failure_path(out: Path, cell: Cell) -> Path:
    """Where the error of a cell that failed is."""
    return out / FAILED / f"{cell.id}.json"


def work_path(out: Path, cell: Cell) -> Path:
    """Where a cell's checkpoints are: another folder for another training."""
    return out / WORK / f"{cell.id}-{cell.training_digest}"


def lock(out: Path, cell: Cell) -> FileLock:
    """Of one cell: whoever works on it holds it, and the system frees it when that process ends, however it ends."""
    return FileLock(out / LOCKS / f"{cell.id}.lock", timeout=0)


def is_locked(out: Path, cell: Cell) -> bool:
    """Whether a process, on any machine that shares the folder, works on the cell."""
    try:
        with lock(out, cell):
            return False
    except Timeout:
        return True


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


def failed_at(out: Path, cell: Cell) -> int | None:
    """When the cell last failed, in ns by the clock of the folder's file system; None when it did not."""
    try:
        return failure_path(out, cell).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def write_result(out: Path, cell: Cell, result: Mapping[str, Any]) -> None:
    """Write what a runner found, compact, one field a line; an older error is removed."""
    whole = {**describe(cell), **result, **environment()}
    lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in whole.items())
    write_text(result_path(out, cell), "{\n" + ",\n".join(lines) + "\n}\n")
    failure_path(out, cell).unlink(missing_ok=True)


def write_error(out: Path, cell: Cell, error: str, trace: str = "") -> None:
    """Write why a cell failed."""
    record = {"cell": cell.id, "error": error, "traceback": trace, **environment()}
    write_text(failure_path(out, cell), json.dumps(record, indent=1) + "\n")


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
