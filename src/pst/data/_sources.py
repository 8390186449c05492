"""The real scans and photos that scikit-learn ships, split into train and val."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_images

_TRAIN_SHARE = 0.75  # of the scans of each class
_TRAIN_WIDTH = 0.55  # of each photo, from the left


def load_scans(split: str, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scans (n, 8, 8) in [0, 1], ink is 1, and classes (n,) of "train" or "val"."""
    found: Any = load_digits(return_X_y=True)
    pixels, labels = found[0], found[1].astype(np.int64)
    pick = split_scans(labels, seed)[split]
    return (pixels[pick].reshape(-1, 8, 8) / 16).astype(np.float32), labels[pick]


def split_scans(labels: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.int64]]:
    """Disjoint indices of the scans of "train" and "val", three quarters of every class in the first."""
    rng = np.random.default_rng([seed, 2])
    parts: dict[str, list[NDArray[np.int64]]] = {"train": [], "val": []}
    for digit in np.unique(labels):
        scans = rng.permutation(np.flatnonzero(labels == digit))
        cut = int(len(scans) * _TRAIN_SHARE)
        parts["train"].append(scans[:cut])
        parts["val"].append(scans[cut:])
    return {name: np.sort(np.concatenate(chunks)) for name, chunks in parts.items()}


def load_photos(split: str) -> list[NDArray[np.uint8]]:
    """The part of each photo (h, w, 3) that belongs to "train" or "val"; the two share no pixel."""
    photos = load_sample_images().images
    cuts = [round(photo.shape[1] * _TRAIN_WIDTH) for photo in photos]
    return [photo[:, :cut] if split == "train" else photo[:, cut:] for photo, cut in zip(photos, cuts, strict=True)]
