"""Classification: one folder for each split, in it one folder of images for each class (ImageFolder)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from pst.data.images import Split


def read_folder(root: str | Path, split: str, classes: tuple[str, ...] | None = None) -> Split:
    """List ``root/split/CLASS/*``; nothing is decoded.

    Args:
        root: The data set.
        split: "train", "val", ...
        classes: The training split's classes; None takes the folders found, in alphabetical order.

    Returns:
        Files in order of class and name, their class indices, the classes.

    Raises:
        FileNotFoundError: There is no such folder, or a class has no images (the message names the classes).
        ValueError: A folder belongs to no class.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: expected {root}/{split}/CLASS/IMAGE")
    found, _ = find_classes(str(folder))
    names = tuple(found) if classes is None else classes
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ValueError(f"{folder} has folders that are no class of the training images: {', '.join(unknown)}")
    indices = {name: names.index(name) for name in found}
    files = make_dataset(str(folder), indices, extensions=IMG_EXTENSIONS)
    return Split([Path(path) for path, _ in files], [index for _, index in files], names)
