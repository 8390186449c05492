"""Running studies: one process for each cell, as many at a time as are asked for, and a folder that runs can share."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from lab.study.cell_process import FAILED, TAKEN, Order, Started
from lab.study.grid import Cell, Study, load_study
from lab.study.result_files import (
    failed_at,
    failure_path,
    is_done,
    is_locked,
    make_folders,
    result_path,
    write_error,
)

Show = Callable[[str], None]
_SHOWN = 15.0  # seconds between two lines about the progress
_LOOK = 1.0  # seconds after which cells that others had are looked at again


def run_study(path: str | Path, **options: Any) -> bool:
    """`run_studies` of one."""
    return run_studies([path], **options)


def run_studies(
    paths: Sequence[str | Path],
    *,
    data_root: str | Path,
    out: str | Path,
    jobs: int = 1,
    only: str = "",
    deadline: float | None = None,
    device: str = "cpu",
    show: Show = lambda _: None,
) -> bool:
    """Run every cell that has no result yet, in the order of the studies; what is wrong with any is said before.

    May be killed at any time, and started several times at once on one folder, from several machines if its file system
    has locks. A cell that fails leaves its error in ``failed/`` and is tried again by the next run.

    Args:
        paths: Study YAMLs. Those without a cell that fits ``only`` are passed over, unless none has one.
        data_root: Folder that data sets are found in.
        out: Folder for results (``results/``, small) and checkpoints (``cells/``, large).
        jobs: Cells at a time on the device, each in a process with one PyTorch thread.
        only: Cells whose id has this in it; "" is all.
        deadline: Seconds after which no cell is begun and every running one stops at its next epoch; None is never.
        device: "cpu" or "cuda".
        show: Called with lines about the progress.

    Returns:
        Whether all of these cells have results now.

    Raises:
        FileNotFoundError: A study, ``data_root`` or a data set is not there.
        ValueError: A study is malformed, no cell fits ``only``, or a result is of other settings.
    """
    end = None if deadline is None else time.time() + deadline
    chosen = _choose(paths, only)
    root, out = Path(data_root).resolve(), Path(out).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {data_root}: name the one that holds the data sets")
    orders = [
        Order(cell, study.folder, root, out, device, end)
        for study, cells in chosen
        for cell in cells
        if not is_done(out, cell)
    ]
    make_folders(out)
    if orders:
        _prepare([order.cell for order in orders], root)
        _run_all(orders, jobs, sum(len(cells) for _, cells in chosen), show)
    for study, cells in chosen:
        show(_summary(study, cells, out))
    return all(is_done(out, cell) for _, cells in chosen for cell in cells)


def _choose(paths: Sequence[str | Path], only: str) -> list[tuple[Study, list[Cell]]]:
    studies = [load_study(path) for path in paths]
    chosen = [(study, [cell for cell in study.cells if only in cell.id]) for study in studies]
    chosen = [(study, cells) for study, cells in chosen if cells]
    if not chosen:
        names = [cell.id for cell in studies[0].cells][:5]
        raise ValueError(f"no cell of {paths[0]} has {only!r} in its name: they are {names} …")
    digests: dict[str, str] = {}
    for study, cells in chosen:
        for cell in cells:
            if digests.setdefault(cell.id, cell.digest) != cell.digest:
                raise ValueError(f"{study.name}.yaml and a study before it have different cells of the name {cell.id}")
    return chosen


def _prepare(cells: list[Cell], data_root: Path) -> None:
    """Make the data sets that are made, and look for the others, before processes start."""
    for cell in cells:
        made = cell.settings["data"].get("digits")
        if made is not None:
            from pst.data import digits

            digits.make(data_root / cell.data, **made)
    for path in sorted({str(cell.settings["data"]["path"]) for cell in cells if cell.runner == "ultralytics"}):
        if not (data_root / path).is_file():
            raise FileNotFoundError(f"no data set {data_root / path}: name the folder that holds it with --data-root")


def _run_all(orders: list[Order], jobs: int, total: int, show: Show) -> None:
    """Begin each cell once, ``jobs`` at a time, until none is left that nobody else has."""
    left, running = list(orders), list[Started]()
    failed_before = {order.cell.id: failed_at(order.out, order.cell) for order in orders}
    shown = time.monotonic()
    try:
        while True:
            while len(running) < jobs and (order := _next(left, failed_before)) is not None:
                left.remove(order)
                running.append(Started(order))
            if not running:
                return
            wait([each.process.sentinel for each in running], timeout=_LOOK)
            for each in [each for each in running if not each.process.is_alive()]:
                running.remove(each)
                left.extend(_ended(each, show))
            if time.monotonic() - shown > _SHOWN:
                shown = time.monotonic()
                show(_progress(orders, total, running))
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.join()


def _next(left: list[Order], failed_before: dict[str, int | None]) -> Order | None:
    """The first cell that is to be run here; done ones, and those that failed elsewhere meanwhile, are crossed out."""
    for order in list(left):
        cell, out = order.cell, order.out
        if order.end is not None and time.time() > order.end:
            return None
        if is_done(out, cell) or failed_at(out, cell) != failed_before[cell.id]:
            left.remove(order)
        elif not is_locked(out, cell):
            return order
    return None


def _ended(each: Started, show: Show) -> list[Order]:
    """See to a process that ended; its order where that is to be looked at again, for another process had the cell."""
    order, code = each.order, each.process.exitcode
    assert code is not None  # it ended
    if code == TAKEN:
        return [order]
    if code not in (0, FAILED):  # it could not write its error itself
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        write_error(order.out, order.cell, f"its process {how}{', out of memory?' if code == -9 else ''}")
    if code != 0:
        show(f"{order.cell.id} failed, see {failure_path(order.out, order.cell)}")
    return []


def _progress(orders: list[Order], total: int, running: list[Started]) -> str:
    done = total - sum(not result_path(order.out, order.cell).is_file() for order in orders)
    return f"{done}/{total} done; running: {', '.join(f'{each.order.cell.id} ({each.note})' for each in running)}"


def _summary(study: Study, cells: list[Cell], out: Path) -> str:
    missing = [cell for cell in cells if not is_done(out, cell)]
    failed = [cell.id for cell in missing if failed_at(out, cell) is not None]
    text = f"{study.name}: {len(cells) - len(missing)} of {len(cells)} cells have results"
    return f"{text}; failed: {', '.join(failed)} (errors in {failure_path(out, cells[0]).parent})" if failed else text
