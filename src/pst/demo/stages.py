"""The stages that take time: training and evaluation. Each goes on where a killed run stopped."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pst.demo.remaining import Remaining
from pst.demo.settings import GRID, MODEL, TRAINING, Settings
from pst.demo.workspace import Workspace
from pst.io.files import check_file, write_bytes, write_text

if TYPE_CHECKING:
    from pst.integrations.ultralytics import YOLO, SweepRow


def check_data(data: str, root: Path) -> None:
    """Refuse a data set that cannot be trained on, before anything is written; nothing is downloaded.

    Raises:
        FileNotFoundError: It is neither a YAML file nor the name of one that Ultralytics has.
        ValueError: It lies in the demo's own folder. What Ultralytics finds wrong it raises itself.
    """
    from pst.integrations.ultralytics.host import ROOT, check_det_dataset

    if not Path(data).is_file() and (ROOT / "cfg" / "datasets" / data).is_file() and Path(data).name == data:
        return
    check_file(data, "data set YAML", "give the data.yaml that names its images and classes")
    found = check_det_dataset(data, autodownload=False)
    parts = [data, *(found.get(name) or [] for name in ("train", "val"))]
    for path in (Path(p).resolve() for part in parts for p in ([part] if isinstance(part, str) else part)):
        if root == path or root in path.parents:
            raise ValueError(f"{path} lies in {root}, where the demo writes: choose another folder with --out")


def train(
    settings: Settings,
    data: str | Path,
    workspace: Workspace,
    remaining: Remaining,
    *,
    workers: int,
    trust: bool = False,
) -> None:
    """Train with coarse attention only, until ``workspace.best`` is the finished model.

    A finished training is kept, an unfinished one resumed after its last whole epoch.
    """
    from pst.integrations.ultralytics import YOLO

    if workspace.trained.is_file():
        return
    resume = workspace.last.is_file()
    yolo: Any = YOLO(workspace.last if resume else MODEL, trust=trust)
    if not resume or yolo.ckpt["epoch"] + 1 < settings.epochs:  # else only the last stroke was missing
        _watch(yolo, workspace)
        remaining.watch(yolo)
        folder = workspace.root / "train"
        # a resumed training takes its folder from here as well: the demo's may have been moved since
        own = {"resume": True} if resume else TRAINING
        yolo.train(
            data=str(data),
            imgsz=settings.imgsz,
            epochs=settings.epochs,
            batch=settings.batch,
            device=settings.device,
            seed=settings.seed,
            workers=workers,
            plots=False,
            save_dir=str(folder),
            **own,
        )
        write_bytes(workspace.best, (folder / "weights" / "best.pt").read_bytes())
    write_text(workspace.trained, json.dumps({"epochs": settings.epochs}))
    workspace.last.unlink(missing_ok=True)


def evaluate(
    settings: Settings, data: str | Path, workspace: Workspace, remaining: Remaining, *, trust: bool = False
) -> list[SweepRow]:
    """Validate ``workspace.best`` for every k and fusion, k = 0 first; rows of an earlier run are read back."""
    from pst.integrations.ultralytics import SweepRow, sweep
    from pst.integrations.ultralytics.host import LOGGER

    workspace.rows.mkdir(exist_ok=True)
    rows = []
    for number, (name, k, fusions) in enumerate(GRID, 1):
        LOGGER.info(f"evaluation {number}/{len(GRID)}: {name}")
        file = workspace.rows / f"{name}.json"
        if not file.is_file():
            begin = time.perf_counter()
            (row,) = sweep(
                workspace.best,
                data,
                topk=[k],
                fusion=fusions,
                imgsz=settings.imgsz,
                batch=settings.batch,
                device=settings.device,
                project=workspace.root / "val",
                trust=trust,
            )
            write_text(file, json.dumps(row._asdict()))
            remaining.evaluated(time.perf_counter() - begin)
        rows.append(SweepRow(**json.loads(file.read_text())))
    return rows


def read_curves(path: Path) -> dict[str, list[float]]:
    """Columns of Ultralytics' results.csv by name; of an epoch that was repeated after a resume, the latest line."""
    with path.open(newline="") as file:
        lines = {line["epoch"]: line for line in csv.DictReader(file)}
    columns = list(next(iter(lines.values())))
    return {name: [float(line[name]) for line in lines.values()] for name in columns}


def training_seconds(elapsed: list[float]) -> float:
    """Total of Ultralytics' "time" column, which starts anew when a training is resumed."""
    total = last = 0.0
    for now in elapsed:
        total += now - last if now >= last else now
        last = now
    return total


def _watch(yolo: YOLO, workspace: Workspace) -> None:
    """Keep whole copies of the checkpoints, which Ultralytics writes in place, and PyTorch's number of threads."""
    threads = torch.get_num_threads()

    def keep_threads(_: Any) -> None:
        # on the CPU Ultralytics takes one thread less than there are cores: on 2 cores that is half the speed
        torch.set_num_threads(threads)

    def keep_checkpoints(trainer: Any) -> None:
        if trainer.best_fitness == trainer.fitness:
            write_bytes(workspace.best, Path(trainer.best).read_bytes())
        write_bytes(workspace.last, Path(trainer.last).read_bytes())

    yolo.add_callback("on_train_start", keep_threads)
    yolo.add_callback("on_val_start", keep_threads)
    yolo.add_callback("on_model_save", keep_checkpoints)
