"""What was run and on what, in words."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pst.demo.settings import TRAINING, Settings
from pst.io.names import counted
from pst.profile import environment

if TYPE_CHECKING:
    from pst.integrations.ultralytics import SweepRow


def headline(settings: Settings, coarse: SweepRow, minutes: float, images: dict[str, int]) -> dict[str, str]:
    """The report's large figures by what they are; ``coarse`` is the row of k = 0."""
    return {
        "mAP50 at k = 0": f"{coarse.map50:.3f}",
        "mAP50-95 at k = 0": f"{coarse.map50_95:.3f}",
        f"training of {counted(settings.epochs, 'epoch')}": f"{minutes:.1f} min",
        "validation images": str(images["val"]),
    }


def describe(
    settings: Settings, parameters: int, classes: int, minutes: float, images: dict[str, int]
) -> dict[str, str]:
    """Everything that one needs to know to judge the figures, or to repeat the run, by name."""
    commit = environment.commit()
    training = ", ".join(f"{name} {value}" for name, value in TRAINING.items())
    return {
        "model": f"YOLO11n-PST, {parameters:,} parameters, {classes} classes, trained with k = 0 from random weights",
        "data": "handwritten digits on photos (pst.data.digits)" if settings.data is None else settings.data,
        "images": f"{images['train']} train, {images['val']} val, {settings.imgsz} px",
        "training": f"{counted(settings.epochs, 'epoch')} in {minutes:.1f} min, batch {settings.batch}, {training}",
        "evaluation": f"weights of the epoch with the best mAP50-95 on these val images, batch {settings.batch}",
        "seed": str(settings.seed),
        "hardware": _hardware(settings.device),
        "versions": ", ".join(f"{name} {version}" for name, version in environment.versions().items()),
        "commit": "not run from a checkout" if commit is None else commit,
        "written": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    }


def _hardware(device: str) -> str:
    found: dict[str, Any] = environment.hardware()
    cpu = f"{found['cpu']}, {found['cores']} cores, {found['os']}"
    return cpu if device == "cpu" else f"{', '.join(found['gpus'])}; {cpu}"
