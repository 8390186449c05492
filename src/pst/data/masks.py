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

from torch import Tensor

from pst.data.images import Split, decode

IGNORE = 255
"""Value of pixels that have no class."""


def read_masks(root: str | Path, split: str) -> Split:
    """List images and masks of one split; nothing is decoded.

    Raises:
        FileNotFoundError: A file or folder that is needed does not exist, or a split is empty.
        ValueError: There are no classes, or more than 255.
    """
    root = Path(root)
    names = root / "classes.txt"
    if not names.is_file():
        raise FileNotFoundError(f"no {names}: expected one class name a line, in the order of the values in the masks")
    classes = tuple(line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip())
    if not 1 <= len(classes) <= IGNORE:
        raise ValueError(f"{names} must name 1 to {IGNORE} classes, it names {len(classes)}")
    listing, nested = root / f"{split}.txt", (root / "images" / split).is_dir()
    sub = split if nested and not listing.is_file() else ""
    images = _by_stem(root / "images" / sub)
    masks = _by_stem(root / "masks" / sub)
    if sub:
        wanted = sorted(images)
    elif listing.is_file():
        wanted = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        raise FileNotFoundError(f"no {listing} and no folder {root / 'images' / split}: nothing says what {split} is")
    if not wanted:
        raise FileNotFoundError(f"{split} is empty in {root}: list at least one name in {listing}")
    for kind, files in (("image", images), ("mask", masks)):
        missing = [name for name in wanted if name not in files]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} names of {split} have no {kind} in {root}, the first: {missing[0]}"
            )
    return Split([images[name] for name in wanted], [masks[name] for name in wanted], classes)


def read_mask(path: Path, classes: int) -> Tensor:
    """One mask, (H, W) uint8.

    Raises:
        CorruptImageError: It cannot be decoded.
        ValueError: It holds a value that is neither a class nor 255; the message names both.
    """
    mask = decode(path, "P")
    wrong = [value for value in mask.unique().tolist() if value >= classes and value != IGNORE]
    if wrong:
        raise ValueError(f"{path} holds the values {wrong}: expected 0 to {classes - 1}, or {IGNORE} for unlabelled")
    return mask


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    return {file.stem: file for file in sorted(folder.iterdir()) if file.is_file()}
