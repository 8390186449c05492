"""The demo from start to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pst.demo.curves import draw_curves  # here, so that what the report needs is missed before the training
from pst.demo.report import render_report
from pst.demo.settings import GRID, Settings
from pst.demo.workspace import Workspace
from pst.io.files import check_folder, write_text

if TYPE_CHECKING:
    from pst.integrations.ultralytics import SweepRow


def run(
    *,
    data: str | Path | None = None,
    imgsz: int = 192,
    epochs: int = 14,
    batch: int = 8,
    out: str | Path = "runs/demo",
    device: str = "cpu",
    seed: int = 0,
    restart: bool = False,
    workers: int = 4,
    trust: bool = False,
) -> Path:
    """Train YOLO11n-PST with coarse attention only, evaluate k = 0, 4, 8, 16 with both fusions, write a report.

    Its second part takes seconds: regions of a photo are carried to another view of it, see `carry_regions`.

    May be killed at any time: the next call with the same settings and ``out`` resumes after the last whole epoch and
    keeps every row of the table that is done. After each epoch and evaluation a line says how long is left.

    Args:
        data: Dataset YAML in the Ultralytics layout; None makes the embedded digits (`pst.data.digits`).
        imgsz: Edge of the images in pixels, at least 64.
        epochs: Training epochs.
        batch: Images in a batch.
        out: Folder of everything that is written.
        device: As in Ultralytics, e.g. "cpu" or "0".
        seed: Of the embedded data and of the training.
        restart: Delete what an earlier run left in ``out`` and start over.
        workers: Processes that load data; Ultralytics uses none on the CPU.
        trust: Let the data set's YAML and its cache run code, as Ultralytics does.

    Returns:
        Path of ``report.html``.

    Raises:
        FileExistsError: ``out`` holds something that is not a demo's.
        FileNotFoundError: There is no such data set.
        ImportError: A library of the ``demo`` extra is missing.
        ValueError: A number is out of range, or ``out`` holds a demo of other settings and ``restart`` is false.
    """
    from pst.data import digits
    from pst.demo.remaining import Remaining
    from pst.demo.stages import check_data, evaluate, train
    from pst.integrations.ultralytics.host import LOGGER, check_device

    path = None if data is None else str(Path(data).resolve() if Path(data).exists() else data)
    root = Path(out).resolve()
    check_folder(root)
    check_device(device)
    if path is not None:
        check_data(path, root)
    settings = Settings(data=path, imgsz=imgsz, epochs=epochs, batch=batch, device=device, seed=seed)
    workspace = Workspace(root)
    workspace.claim(settings, restart=restart)

    LOGGER.info(f"[1/4] data: {'handwritten digits on photos' if path is None else path}")
    data = digits.make(workspace.digits, imgsz=imgsz, seed=seed) if path is None else path
    LOGGER.info(f"[2/4] training: {epochs} epochs with coarse attention only")
    remaining = Remaining(len(GRID) - len(list(workspace.rows.glob("*.json"))), LOGGER.info)
    train(settings, data, workspace, remaining, workers=workers, trust=trust)
    LOGGER.info("[3/4] evaluation: every k and fusion")
    rows = evaluate(settings, data, workspace, remaining, trust=trust)
    LOGGER.info("[4/4] report: validation pictures, and labels carried to another view of a photo")
    write_text(workspace.report, _report(settings, data, workspace, rows))
    return workspace.report


def _report(settings: Settings, data: str | Path, workspace: Workspace, rows: list[SweepRow]) -> str:
    from pst.demo.facts import describe, headline
    from pst.demo.pictures import draw_scenes, read_labels
    from pst.demo.stages import read_curves, training_seconds
    from pst.demo.two_views import carry_regions
    from pst.integrations.ultralytics import YOLO

    columns = read_curves(workspace.curves)
    minutes = training_seconds(columns["time"]) / 60
    labels, names = read_labels(data, "val", settings.imgsz)
    images = {"train": len(read_labels(data, "train", settings.imgsz)[0]), "val": len(labels)}
    yolo = YOLO(workspace.best)
    return render_report(
        headline=headline(settings, rows[0], minutes, images),
        rows=rows,
        curves=draw_curves(columns),
        scenes=draw_scenes(yolo, labels, names, settings),
        views=carry_regions(),
        facts=describe(settings, sum(p.numel() for p in yolo.parameters()), len(names), minutes, images),
    )
