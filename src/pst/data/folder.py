"""Classification: a folder for each split, in it a folder for each class (ImageFolder)."""

from __future__ import annotations

from pathlib import Path

from pst.data.images import Split
from pst.data.paths import absent, is_there, other_task
from pst.data.text import checked_names
from pst.data.walk import list_folders, list_images
from pst.io.names import listed


def read_folder(root: str | Path, split: str, classes: tuple[str, ...] | None = None) -> Split:
    """List ``root/split/CLASS/*``; nothing is decoded.

    Args:
        root: The data set.
        split: "train", "val", ...
        classes: The training split's classes; None takes the folders found, in alphabetical order.

    Returns:
        Files in order of class and name, their class indices, the classes.

    Raises:
        FileNotFoundError: There is no such folder, no class in it, or a class has no images (the message names the
            classes); with ``classes`` given, a class may be empty, but not all.
        ValueError: A folder belongs to no class, or two have one name but for case and spaces.
    """
    folder = Path(root) / split
    if not is_there(Path(root)):
        raise FileNotFoundError(absent(Path(root), f"the folder of a data set, with {split}/CLASS/IMAGE in it"))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: expected {root}/{split}/CLASS/IMAGE{other_task(Path(root), 'classify')}"
        )
    folders = {each.name: each for each in list_folders(folder)}
    found = checked_names(folders, str(folder))
    names = found if classes is None else classes
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ValueError(f"{folder} has folders that are not a class of the training images: {', '.join(unknown)}")
    files = {name: list_images(folders[name]) for name in found}
    empty = [name for name, images in files.items() if not images]
    if not found or len(empty) == len(found):
        raise FileNotFoundError(f"no image of any class in {folder}: expected {root}/{split}/CLASS/IMAGE")
    if empty and classes is None:
        raise FileNotFoundError(f"no images in {folder} of the classes: {listed(empty)}")
    images = [(file, names.index(name)) for name in found for file in files[name]]
    return Split([file for file, _ in images], [index for _, index in images], names)
