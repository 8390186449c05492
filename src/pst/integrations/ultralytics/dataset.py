"""Whether a dataset is there as a whole, found out without downloading anything."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ultralytics.data.utils import IMG_FORMATS, img2label_paths
from ultralytics.utils import DATASETS_DIR, YAML
from ultralytics.utils.checks import check_file

_IMAGENET_CLASSES = 1000


def count_detection(data: str) -> dict[str, int]:
    """Images of each split of a dataset YAML; every image has to be there, and a label of one at least.

    Raises:
        FileNotFoundError: Something is missing; the message says what.
    """
    file: Any = check_file(data)
    d: Any = YAML.load(file)
    if missing := [name for name in ("train", "val") if not isinstance(d.get(name), (str, list))]:
        raise ValueError(f"{data} does not say where the images of {missing[0]} are: expected {missing[0]}: FOLDER")
    root = Path(d["path"]) if "path" in d else Path(file).parent
    if not root.exists() and not root.is_absolute():
        root = DATASETS_DIR / root
    counts = {}
    for split in ("train", "val"):
        images = _listed([root / path for path in ([d[split]] if isinstance(d[split], str) else d[split])])
        if missing := _missing(images):
            raise FileNotFoundError(f"{len(missing):,} of {len(images):,} {split} images are not there: {missing[0]}")
        labels = [Path(path) for path in img2label_paths([str(path) for path in images])]
        if len(_missing(labels)) == len(labels):
            raise FileNotFoundError(f"no {split} image has a label: no {labels[0] if labels else root}")
        counts[split] = len(images)
    return counts


def count_imagenet(data: str) -> dict[str, int]:
    """Images of each split of a folder of class folders.

    Raises:
        FileNotFoundError: A split is missing or has not 1,000 class folders, or one of them is empty.
    """
    root = Path(data) if Path(data).is_dir() else DATASETS_DIR / data
    counts = {}
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise FileNotFoundError(f"no folder {root / split}")
        classes = [path for path in sorted((root / split).iterdir()) if path.is_dir()]
        if len(classes) != _IMAGENET_CLASSES:
            raise FileNotFoundError(f"{root / split} has {len(classes)} class folders, not {_IMAGENET_CLASSES}")
        sizes = {path: len(list(path.iterdir())) for path in classes}
        if empty := [path for path, size in sizes.items() if size == 0]:
            raise FileNotFoundError(f"{len(empty)} empty class folders, e.g. {empty[0]}")
        counts[split] = sum(sizes.values())
    return counts


def _listed(paths: list[Path]) -> list[Path]:
    """Images of a split: those in a folder, or named by a text file with a path in each line."""
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            images += [file for file in sorted(path.rglob("*.*")) if _is_image(file.relative_to(path))]
        elif path.is_file():
            images += [path.parent / line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line]
        else:
            raise FileNotFoundError(f"no {path}")
    return images


def _is_image(path: Path) -> bool:
    """By its ending, and not hidden, as in Ultralytics."""
    return path.suffix[1:].lower() in IMG_FORMATS and not any(part.startswith(".") for part in path.parts)


def _missing(files: list[Path]) -> list[Path]:
    """Those that do not exist; each folder is listed once, for COCO has 118,287 files in one."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    present = {folder: {path.name for path in folder.iterdir()} if folder.is_dir() else set() for folder in by_folder}
    return [file for file in files if file.name not in present[file.parent]]
