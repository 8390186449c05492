"""Running a study: processes that take cells from a folder until none is left."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pst.environment import environment
from pst.files import write_text
from pst.study.claims import Claim, running
from pst.study.grid import Cell, load_study

RESULTS, FAILED, WORK, CLAIMS = "results", "failed", "cells", "claims"


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


def run_study(
    path: str | Path,
    *,
    data_root: str | Path,
    out: str | Path,
    jobs: int = 1,
    only: str = "",
    deadline: float | None = None,
    device: str = "cpu",
    show: Callable[[str], None] = lambda _: None,
) -> bool:
    """Run every cell that has no result yet.

    May be killed at any time, and started several times at once on one folder. A cell that fails leaves its error in
    ``failed/`` and is tried again by the next run.

    Args:
        path: Study YAML.
        data_root: Folder that data sets are found in.
        out: Folder for results (``results/``, small) and checkpoints (``cells/``, large).
        jobs: Processes on the device, with one PyTorch thread each.
        only: Cells whose id has this in it; "" is all.
        deadline: Seconds after which no cell is begun and every running one stops at its next epoch; None is never.
        device: "cpu" or "cuda".
        show: Called with lines about the progress.

    Returns:
        Whether all of these cells have results now.

    Raises:
        FileNotFoundError: The study or ``data_root`` is not there.
        ValueError: The study is malformed, no cell fits ``only``, or a result is of other settings.
    """
    study, out = load_study(path), Path(out).resolve()
    cells = [cell for cell in study.cells if only in cell.id]
    if not cells:
        raise ValueError(f"no cell of {path} has {only!r} in its name: they are {[c.id for c in study.cells][:5]} …")
    if not Path(data_root).is_dir():
        raise FileNotFoundError(f"no folder {data_root}: name the one that holds the data sets")
    todo = [cell for cell in cells if not is_done(out, cell)]
    for folder in (RESULTS, FAILED, WORK, CLAIMS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if todo:
        _prepare(todo, Path(data_root).resolve())
        end = None if deadline is None else time.time() + deadline
        args = (str(path), str(Path(data_root).resolve()), str(out), only, end, device, _mark(out))
        _supervise(min(jobs, len(todo)), args, cells, out, show)
    missing = [cell.id for cell in cells if not is_done(out, cell)]
    show(f"{study.name}: {len(cells) - len(missing)} of {len(cells)} cells have results" + _failures(out, cells))
    return not missing


def _prepare(cells: list[Cell], data_root: Path) -> None:
    """Make the data sets that are made, and scan each one, before processes start that would all do it at once."""
    for cell in cells:
        made = cell.settings["data"].get("digits")
        if made is not None:
            from pst.data import digits

            digits.make(data_root / cell.data, **made)
    if any(cell.runner == "ultralytics" for cell in cells):
        from pst.study.yolo import prepare_data

        for path in sorted({str(cell.settings["data"]["path"]) for cell in cells}):
            prepare_data(data_root / path)


def _mark(out: Path) -> float:
    """Now, by the clock of the folder's file system."""
    mark = out / CLAIMS / f".{os.getpid()}.mark"
    mark.touch()
    now = mark.stat().st_mtime
    mark.unlink()
    return now


def _supervise(jobs: int, args: tuple[Any, ...], cells: list[Cell], out: Path, show: Callable[[str], None]) -> None:
    """Keep ``jobs`` workers running; one that dies (out of memory, a broken CUDA context) is replaced."""
    context = multiprocessing.get_context("spawn")
    workers: list[Any] = []
    try:
        workers = [_start(context, args) for _ in range(jobs)]
        shown, crashes = 0.0, 0
        while workers:
            time.sleep(0.2)
            for worker in [w for w in workers if not w.is_alive()]:
                workers.remove(worker)
                if worker.exitcode == _AGAIN:
                    workers.append(_start(context, args))
                elif worker.exitcode != 0:
                    show(f"a worker ended with exit code {worker.exitcode}")
                    crashes += 1
                    if crashes <= 2 * jobs:
                        workers.append(_start(context, args))
            if time.time() - shown > 15:
                shown = time.time()
                notes = ", ".join(f"{name} ({note})" for name, note in running(out / CLAIMS).items())
                show(f"{sum(result_path(out, c).is_file() for c in cells)}/{len(cells)} done; {notes}")
    finally:
        for worker in workers:
            worker.terminate()


_AGAIN = 75  # exit code of a worker after a failed cell: whatever the failure left in its process goes with it


def _start(context: Any, args: tuple[Any, ...]) -> Any:
    worker = context.Process(target=_work, args=args, daemon=False)
    worker.start()
    return worker


def _failed(out: Path, cell: Cell, since: float) -> bool:
    path = out / FAILED / f"{cell.id}.json"
    return path.is_file() and path.stat().st_mtime >= since


def _work(path: str, data_root: str, out: str, only: str, end: float | None, device: str, since: float) -> None:
    """Body of a worker process."""
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
            work = folder / WORK / f"{cell.id}-{cell.training_digest}"
            task = Task(cell, study.folder, Path(data_root), work, device, say)
            if not _run(task, claim, folder):
                raise SystemExit(_AGAIN)


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
        from pst.study import yolo

        return yolo.run
    if name == "retrieval":
        from pst.study import retrieval

        return retrieval.run
    from pst.study import trainer

    return trainer.run


def _failures(out: Path, cells: list[Cell]) -> str:
    failed = [c.id for c in cells if (out / FAILED / f"{c.id}.json").is_file() and not result_path(out, c).is_file()]
    return f"; failed: {', '.join(failed)} (errors in {out / FAILED})" if failed else ""
