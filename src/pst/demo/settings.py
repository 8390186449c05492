"""What the results of a demo run depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pst.functional.attention import Fusion

TOPK = (0, 4, 8, 16)
FUSIONS: tuple[Fusion, ...] = ("gate", "refine")
# Name, k and fusion of each evaluation. k = 0 is one row, whatever the fusion.
GRID: tuple[tuple[str, int, tuple[Fusion, ...]], ...] = (
    ("coarse", 0, FUSIONS),
    *((f"{fusion}-k{k}", k, (fusion,)) for fusion in FUSIONS for k in TOPK if k > 0),
)
MODEL = "yolo11n-pst.yaml"

# Short training from scratch on few cores. Digits must not be mirrored. nbs is the batch size at which Ultralytics
# steps the optimizer. cls is twice its default: telling digits apart is harder than finding them. amp=False keeps
# Ultralytics' AMP check away, which downloads a model.
TRAINING: dict[str, Any] = {
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 1,
    "warmup_bias_lr": 0.0,
    "nbs": 8,
    "mosaic": 1.0,
    "close_mosaic": 6,
    "cls": 1.0,
    "scale": 0.3,
    "fliplr": 0.0,
    "flipud": 0.0,
    "amp": False,
    "pretrained": False,
}


@dataclass(frozen=True)
class Settings:
    """What the results depend on; a folder holds the results of one of these.

    Attributes:
        data: Path or name of a dataset YAML, None for the embedded digits.
        imgsz: Edge of the images in pixels.
        epochs: Training epochs.
        batch: Images in a batch.
        device: As in Ultralytics, e.g. "cpu" or "0".
        seed: Of the data and the training.
    """

    data: str | None
    imgsz: int
    epochs: int
    batch: int
    device: str
    seed: int

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("imgsz", self.imgsz, 64, 16384),
            ("epochs", self.epochs, 1, 2**31 - 1),
            ("batch", self.batch, 1, 2**31 - 1),
            ("seed", self.seed, 0, 2**32 - 1),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} must be {f'≥ {least}' if value < least else f'≤ {most}'}, got {value}")

    def stamp(self) -> dict[str, Any]:
        """Everything that two runs must share for one to go on with the other's work."""
        return {**asdict(self), "model": MODEL, "training": TRAINING}
