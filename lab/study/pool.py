"""Running a study: worker processes that share a folder, started, watched and replaced."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.study.claims import running
from lab.study.grid import Cell, load_study
from lab.study.worker import AGAIN, CLAIMS, FAILED, RESULTS, WORK, is_done, result_path, work


def run_studies(
    paths: Sequence[str | Path],
    *,
    data_root: str | Path,
    out: str | Path,
    only: str = "",
    deadline: float | None = None,
    **options: Any,
) -> bool:
    """`run_study` for several, one after the other; what is wrong with any is said before the first one trains.

    Args:
        paths: Study YAMLs. Those without a cell that fits ``only`` are passed over, unless none has one.
        data_root: As for `run_study`.
        out: Likewise.
        only: Likewise.
        deadline: Likewise, for all of them together.
        options: The other arguments of `run_study`.

    Returns:
        Whether all of these cells have results now.

    Raises:
        FileNotFoundError: A study, ``data_root`` or a data set is not there.
        ValueError: A study is malformed, no cell fits ``only``, or a result is of other settings.
    """
    cells = {path: [cell for cell in load_study(path).cells if only in cell.id] for path in paths}
    fitting = [path for path in paths if cells[path]] or list(paths[:1])  # of the first, for the error that it gives
    todo = [cell for path in fitting for cell in cells[path] if not is_done(Path(out).resolve(), cell)]
    if todo and Path(data_root).is_dir():
        _prepare(todo, Path(data_root).resolve())
    end = None if deadline is None else time.monotonic() + deadline
    done = []
    for path in fitting:
        rest = None if end is None else max(0.0, end - time.monotonic())
        done.append(run_study(path, data_root=data_root, out=out, only=only, deadline=rest, **options))
    return all(done)


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
    scanned = sorted({str(cell.settings["data"]["path"]) for cell in cells if cell.runner == "ultralytics"})
    if scanned:
        from lab.study.runners.yolo import prepare_data

        for path in scanned:
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
                if worker.exitcode == AGAIN:
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


def _start(context: Any, args: tuple[Any, ...]) -> Any:
    worker = context.Process(target=work, args=args, daemon=False)
    worker.start()
    return worker


def _failures(out: Path, cells: list[Cell]) -> str:
    failed = [c.id for c in cells if (out / FAILED / f"{c.id}.json").is_file() and not result_path(out, c).is_file()]
    return f"; failed: {', '.join(failed)} (errors in {out / FAILED})" if failed else ""
