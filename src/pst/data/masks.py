"""Semantic segmentation: a folder of images, one of masks, a list of names for each split, names of the classes.

::

    classes.txt   one name a line; line i is the class that has value i in a mask
    images/       NAME.jpg, NAME.png, …
    masks/        NAME.png with one channel; 255 is "unlabelled" and never counts
    train.txt     NAME, one a line
    val.txt

Instead of the lists, images and masks may lie in ``images/train``, ``masks/train`` and so on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pst.data.images import Split
from pst.data.paths import absent, is_there, named, other_task
from pst.data.text import checked_names, read_lines
from pst.data.walk import list_images, unique
from pst.io.image_file import read_indices
from pst.io.names import counted

IGNORE = 255
"""Value of pixels that have no class."""


def read_masks(root: str | Path, split: str) -> Split:
    """List images and masks of one split; nothing is decoded.

    Raises:
        FileNotFoundError: A file or folder that is needed does not exist, or a split is empty.
        ValueError: There are no classes, more than 255, or two of one name; two images or masks of one name that
            differ in their ending; a list that is not UTF-8.
    """
    root = Path(root)
    names = root / "classes.txt"
    if not is_there(root):
        raise FileNotFoundError(absent(root, "the folder of a data set, with classes.txt, images and masks in it"))
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: expected one with classes.txt, images and masks")
    if not names.is_file():
        raise FileNotFoundError(
            f"no {names}: expected one class name a line, in the order of the values in the masks"
            f"{other_task(root, 'segment')}"
        )
    classes = checked_names(read_lines(names), str(names))
    if not 1 <= len(classes) <= IGNORE:
        raise ValueError(f"{names} must name 1 to {IGNORE} classes, it names {len(classes)}")
    listing, nested = root / f"{split}.txt", (root / "images" / split).is_dir()
    sub = split if nested and not listing.is_file() else ""
    if not (sub or listing.is_file()):
        raise FileNotFoundError(f"no {listing} and no folder {root / 'images' / split}: nothing says what {split} is")
    wanted = None if sub else read_lines(listing)
    images, masks = (_by_stem(root / kind / sub, wanted) for kind in ("images", "masks"))
    wanted = sorted(images) if wanted is None else [str(name) for name in unique(map(Path, wanted), str(listing))]
    if not wanted:
        raise FileNotFoundError(f"{split} is empty in {root}: list at least one name in {listing}")
    for kind, files in (("image", images), ("mask", masks)):
        missing = [name for name in wanted if name not in files]
        if missing:
            those = counted(len(missing), f"name of {split} has", f"names of {split} have")
            raise FileNotFoundError(f"{those} no {kind} in {root}, the first: {named(Path(missing[0]))}")
    return Split([images[name] for name in wanted], [masks[name] for name in wanted], classes)


def read_mask(path: Path, classes: int) -> Tensor:
    """One mask, (H, W) uint8; `pst.io.image_file.read_indices` says what is read as which number.

    Raises:
        CorruptImageError: It cannot be decoded.
        ValueError: It is not a mask, or holds a value that is neither a class nor 255; the message names both.
    """
    mask = torch.tensor(read_indices(path))
    ends = int(mask.min()), int(mask.max())
    far = [end for end in dict.fromkeys(ends) if not 0 <= end <= IGNORE]
    wrong = far or [value for value in values_in(mask.to(torch.uint8)) if value >= classes and value != IGNORE]
    if wrong:
        values = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
        raise ValueError(f"{path} holds the values [{values}]: expected 0 to {classes - 1}, or {IGNORE} for unlabelled")
    return mask.to(torch.uint8)


def values_in(mask: Tensor) -> list[int]:
    """The values in a mask, (H, W) uint8, in rising order; in a moment, also for one of many pixels."""
    return [value for value, count in enumerate(Image.fromarray(mask.numpy()).histogram()) if count]


def _by_stem(folder: Path, wanted: list[str] | None) -> dict[str, Path]:
    """Images by their name without the ending; two of one name are refused where that name is wanted."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    files: dict[str, Path] = {}
    names = None if wanted is None else set(wanted)
    for file in list_images(folder, recursive=False):
        other = files.setdefault(file.stem, file)
        if other is not file and (names is None or file.stem in names):
            raise ValueError(f"{other} and {file} have one name: remove or rename one of them")
    return files
