"""The third task: the places of a photo carried to a warped view of it, where the true place of each is known."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lab.two_maps import homography, plan, rivals
from lab.two_maps.attend import apply
from lab.two_maps.frames import SIZE
from lab.two_maps.labels import STRIDE
from lab.two_maps.networks import Extract, as_batch, extractor
from lab.two_maps.rows import RIVALS, ROWS, Row, of
from lab.two_maps.store import Store

FILE, SCALES = "matching.json", "scales-matching.json"
WITHIN = (2, 4, 8)  # pixels
PHOTOS, CHOOSING = 40, 4  # from VOC's val part; to choose scales by, from its training part
CANDIDATES = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
ASPECT = (240, 320)  # height and width that the middle of a photo is cut to


def photos(voc: Path, split: str, number: int) -> list[Path]:
    """The first photos by name that are wide and high enough.

    Raises:
        FileNotFoundError: There are fewer.
    """
    found = []
    for path in sorted((voc / "images" / split).glob("*.jpg")):
        with Image.open(path) as file:
            if file.width >= ASPECT[1] and file.height >= ASPECT[0]:
                found.append(path)
        if len(found) == number:
            return found
    raise FileNotFoundError(f"{voc / 'images' / split} has {len(found)} fitting photos of {number}: give --voc")


def photo(path: Path) -> NDArray[np.uint8]:
    """The middle of a photo, (352, 480, 3) RGB."""
    with Image.open(path) as file:
        left, top = (file.width - ASPECT[1]) // 2, (file.height - ASPECT[0]) // 2
        cut = file.convert("RGB").crop((left, top, left + ASPECT[1], top + ASPECT[0]))
        return np.asarray(cut.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def evaluate(
    picture: NDArray[np.uint8],
    matrix: homography.Matrix,
    rows: Mapping[str, Row | str],
    extract: Extract,
    scales: Mapping[str, float],
) -> dict[str, Any]:
    """Visible positions, and for each row how many of them are found within each distance of `WITHIN`."""
    view = homography.warp(picture, matrix)
    query, key = extract(as_batch(view)), extract(as_batch(picture))
    here = homography.centres(query.shape[1], query.shape[2], STRIDE)
    true = homography.truth(matrix, here)
    seen = homography.visible(true, *SIZE)
    out: dict[str, Any] = {"visible": int(seen.sum())}
    for name, row in rows.items():
        if isinstance(row, Row):
            value = torch.from_numpy(homography.centres(key.shape[1], key.shape[2], STRIDE)).float()
            found = apply(row, query, key, value / SIZE[1], scales[name]).double().numpy() * SIZE[1]
        elif name == "copy":
            found = here
        else:
            x, y = rivals.places(rivals.flow(view, picture))
            found = _sampled(np.stack([x, y]))
        distance = np.hypot(*(found - true))[seen]
        out[name] = [int((distance <= most).sum()) for most in WITHIN]
    return out


def _sampled(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, H, W) of every pixel -> the mean over each position of the map."""
    tensor: Tensor = torch.nn.functional.avg_pool2d(torch.from_numpy(maps), STRIDE)
    return tensor.double().numpy()


def run(voc: Path, out: Path, *, every: int = 1) -> None:
    """Choose each row's scale on photos of the training part, then evaluate it on those of val; resumes."""
    extract = extractor(plan.DEFAULT)
    rows: dict[str, Row | str] = {**RIVALS, **of("main"), **_more()}
    scales = _scales(voc, out, extract, {name: row for name, row in rows.items() if isinstance(row, Row)})
    settings = {"task": "matching", "network": plan.DEFAULT, "size": list(SIZE), "within": WITHIN, "scales": scales}
    store = Store(out / FILE, settings)
    for path in tqdm(photos(voc, "val", PHOTOS)[::every], desc="matching", unit="photo", mininterval=2):
        lacking = store.lacks(path.stem, rows)
        if lacking:
            with torch.inference_mode():
                wanted = {n: rows[n] for n in lacking}
                store.add(path.stem, evaluate(photo(path), warp_of(path), wanted, extract, scales))
    store.finished(f"{PHOTOS} photos", every)


def _more() -> dict[str, Row]:
    return {name: ROWS[name] for name in ("random-window-1", "random-window-2", "query-8", "dense-2")}


def warp_of(path: Path) -> homography.Matrix:
    """The homography of a photo, the same in every run."""
    return homography.random_homography(np.random.default_rng(zlib.crc32(path.stem.encode())), *SIZE)


def _scales(voc: Path, out: Path, extract: Extract, rows: Mapping[str, Row]) -> dict[str, float]:
    """For each row the scale that finds the most positions within 4 pixels; one for all rows of random tokens."""
    store = Store(out / SCALES, {"task": "scales of matching", "candidates": CANDIDATES, "photos": CHOOSING})
    names = [name for name in rows if name not in ("random-window-1", "random-window-2")]
    for path in tqdm(photos(voc, "train", CHOOSING), desc="scales of matching", unit="photo"):
        lacking = store.lacks(path.stem, names)
        if lacking:
            with torch.inference_mode():
                store.add(path.stem, _at_each_scale(path, {n: rows[n] for n in lacking}, extract))
    records = list(store.records.values())
    chosen = {name: best([record[name] for record in records]) for name in names}
    return {name: chosen.get(name, chosen.get("random-window-0", CANDIDATES[0])) for name in rows}


def _at_each_scale(path: Path, rows: Mapping[str, Row], extract: Extract) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in rows}
    for scale in CANDIDATES:
        result = evaluate(photo(path), warp_of(path), rows, extract, dict.fromkeys(rows, scale))
        for name in rows:
            found[name].append(result[name][WITHIN.index(4)])
    return found


def best(found: Sequence[Sequence[int]]) -> float:
    """The candidate with the most positions over all photos, (photos, candidates)."""
    sums = np.sum(found, 0)
    return CANDIDATES[int(sums.argmax())]
