"""The files of a prediction: which images are read, and where what was found is written."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pst.data import walk
from pst.io.files import check_folder, check_ours, replacing

PREDICTIONS = "predictions.json"
_MARK = "pst predict"  # in the pictures


def list_images(sources: Iterable[str | Path]) -> list[Path]:
    """Files, and the images in folders, in order of name; each once.

    Raises:
        FileNotFoundError: A path does not exist, or there is no image.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = walk.list_images(source, recursive=False)
            if not found:
                raise FileNotFoundError(
                    f"no images in {source}: give files or folders of images; folders in it are not searched"
                )
            files += found
        elif source.is_file():
            files.append(source)
        else:
            remedy = "download it first" if source.parts[0] in ("http:", "https:") else "check the path"
            raise FileNotFoundError(f"no image or folder at {source}: {remedy}")
    if not files:
        raise FileNotFoundError("no images given: give files, or folders that hold some")
    return list({file.absolute(): file for file in files}.values())


def plan_pictures(files: Sequence[Path], out: Path, *, masks: bool) -> list[tuple[Path, Path | None]]:
    """Where picture and mask of each image go in the folder ``out``; None for a mask where there are none.

    Raises:
        FileExistsError: A file is in the way that is an image itself, or that `predict_images` did not write; or images
            come from ``out``, where the pictures would count as more of them.
        NotADirectoryError: ``out`` is a file, or lies below one.
        ValueError: Two would have one name, capitals and ways to write an accent aside, or a name is too long.
    """
    check_folder(out)
    if any(out.resolve() == file.parent.resolve() for file in files):
        raise FileExistsError(f"{out} holds the images, and the pictures would lie among them: give another --out")
    inputs = {(stat.st_dev, stat.st_ino) for stat in map(Path.stat, files)}
    owners: dict[str, Path] = {}
    plan: list[tuple[Path, Path | None]] = []
    for file in files:
        picture, mask = out / f"{file.stem}.png", out / f"{file.stem}.mask.png" if masks else None
        for target in filter(None, (picture, mask)):
            other = owners.setdefault(unicodedata.normalize("NFC", target.name).casefold(), file)
            if other is not file:
                raise ValueError(f"{other} and {file} would both be drawn to {target}: give each an --out of its own")
            if len(os.fsencode(target.name)) > 255:
                raise ValueError(f"the name of {file} is too long for a picture beside it: shorten it")
            if target.exists() and (target.stat().st_dev, target.stat().st_ino) in inputs:
                raise FileExistsError(f"{target} is one of the images, and would be replaced: give another --out")
            check_ours(target, _MARK)
        plan.append((picture, mask))
    check_ours(out / PREDICTIONS, '"image": ')
    return plan


def write_picture(picture: Image.Image, path: Path) -> None:
    """A PNG file that says who wrote it."""
    said = PngInfo()
    said.add_text("Software", _MARK)
    with replacing(path) as part:
        picture.save(part, format="PNG", pnginfo=said)
