"""Conversion of checkpoints: the authors' ``.pt``, ours and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pst.integrations.ultralytics.checkpoints import check_suffix, open_checkpoint, ultralytics_dict
from pst.integrations.ultralytics.plugin import register
from pst.integrations.ultralytics.portable import OPEN_VOCABULARY, Checkpoint, to_metadata
from pst.io.checkpoints import save_safetensors
from pst.io.files import check_parent, replacing


def convert_checkpoint(src: str | Path, dst: str | Path, *, trust: bool = False) -> Checkpoint:
    """Convert a checkpoint: the authors' ``.pt``, ours or ``.safetensors``, to ours or ``.safetensors``.

    Nothing in the file is executed. Weights are written as float32, whatever they were stored as, of the averaged model
    (EMA) where there is one. A ``.safetensors`` holds the state dict in our names and, as metadata, what `Checkpoint`
    lists; a ``.pt`` opens with `YOLO`, and with plain Ultralytics while the plugin is registered. Neither holds an
    optimizer: a training starts anew from it.

    Args:
        src: ``.pt`` or ``.safetensors``.
        dst: Likewise; written atomically, a file that exists is replaced.
        trust: Unpickle ``src`` if it cannot be read otherwise, which runs whatever code it holds.

    Returns:
        What was converted.

    Raises:
        FileNotFoundError: ``src``, or the folder of ``dst``, does not exist.
        ImportError: safetensors is needed and not installed.
        ValueError: A suffix is unknown, ``src`` and ``dst`` are one file, or ``src`` is damaged, names what is not
            known, or holds weights that are not those of its model.
    """
    src, dst = Path(src), check_parent(dst)
    check_suffix(dst)
    checkpoint, model = _open(src, trust=trust)
    if dst.exists() and dst.samefile(src):
        raise ValueError(f"{dst} would be overwritten by its own conversion: give another name")
    if checkpoint.model_class in OPEN_VOCABULARY:
        raise ValueError(f"{src} holds a {checkpoint.model_class}, whose classes are text features: not converted")
    if dst.suffix == ".safetensors":
        save_safetensors(checkpoint.state, dst, to_metadata(checkpoint))
    else:
        with replacing(dst) as part:
            torch.save(ultralytics_dict(checkpoint, model), part)
    return checkpoint


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read any of the three formats; raises what `convert_checkpoint` does."""
    return _open(Path(path), trust=trust)[0]


def _open(path: Path, *, trust: bool) -> tuple[Checkpoint, Any]:
    register()
    return open_checkpoint(path, trust=trust)
