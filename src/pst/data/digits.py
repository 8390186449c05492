"""Detection scenes of real handwritten digits on real photos, made from files that scikit-learn ships.

The digits are the 1,797 scans of `sklearn.datasets.load_digits` (UCI Optical Recognition of Handwritten Digits,
10 classes, 8×8), the grounds are crops of `sklearn.datasets.load_sample_images` (two photos). Train and val share
neither a scan nor a pixel of a photo.
"""

from __future__ import annotations

import json
from pathlib import Path

from pst.io.files import replacing
from pst.io.versions import install_extra

STAMP = "digits.json"
_FORMAT = 1  # raise when unchanged settings give other scenes


def make(root: str | Path, *, train: int = 400, val: int = 100, imgsz: int = 256, seed: int = 0) -> Path:
    """Write the data set in Ultralytics' layout, in seconds; the same settings give the same bytes.

    Built in a temporary folder beside ``root`` and renamed, so ``root`` is either absent or complete. A complete set
    of the same settings is used as it is; nothing is ever overwritten.

    Args:
        root: Target folder.
        train: Number of training images, at least 1.
        val: Number of validation images, at least 1.
        imgsz: Edge of the square images in pixels, at least 64. Digits are about 12/256 to 140/256 of it high.
        seed: Of everything random, at least 0.

    Returns:
        Path of ``data.yaml``, whose paths are relative to its own folder.

    Raises:
        ImportError: scikit-learn or Pillow is not installed.
        ValueError: A number is out of range, or ``root`` holds a set of other settings.
        FileExistsError: ``root`` exists and holds something else.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("imgsz", imgsz, 64), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be ≥ {least}, got {value}")
    root = Path(root)
    settings = {"format": _FORMAT, "train": train, "val": val, "imgsz": imgsz, "seed": seed}
    if not _is_made(root, settings):
        _make(root, settings)
    return root / "data.yaml"


def _is_made(root: Path, settings: dict[str, int]) -> bool:
    """Whether ``root`` is a complete set of these settings; False when there is nothing at ``root``."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    stamp = root / STAMP
    if not stamp.is_file():
        raise FileExistsError(f"{root} exists and holds no digits data set: choose another folder")
    found = json.loads(stamp.read_text())
    if found != settings:
        raise ValueError(
            f"{root} holds a digits data set made with {found}, wanted {settings}: delete it or choose another folder"
        )
    return True


def _make(root: Path, settings: dict[str, int]) -> None:
    try:
        with replacing(root) as part:
            for split in ("train", "val"):
                _write_split(part, split, settings[split], settings["imgsz"], settings["seed"])
            names = "".join(f"  {digit}: '{digit}'\n" for digit in range(10))
            (part / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
            (part / STAMP).write_text(json.dumps(settings, indent=2) + "\n")
    except OSError:
        if not _is_made(root, settings):  # else another process was faster
            raise


def _write_split(root: Path, split: str, count: int, imgsz: int, seed: int) -> None:
    try:
        import numpy as np
        from PIL import Image

        from pst.data._compose import scene
        from pst.data._sources import load_photos, load_scans
    except ImportError as error:
        raise ImportError(
            f"the digits data set needs scikit-learn and Pillow ({error}): {install_extra('demo')}"
        ) from error

    images, texts = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    texts.mkdir(parents=True)
    (scans, labels), photos = load_scans(split, seed), load_photos(split)
    for i in range(count):
        rng = np.random.default_rng([seed, int(split == "val"), i])
        pixels, boxes = scene(rng, photos[int(rng.integers(len(photos)))], scans, labels, imgsz)
        Image.fromarray(pixels).save(images / f"{i:04d}.jpg", quality=95, subsampling=0)
        (texts / f"{i:04d}.txt").write_text("".join(box.line(imgsz) for box in boxes))
