"""Conversion of checkpoints, the authors' ``.pt``, ours and safetensors, without executing a pickle."""

from __future__ import annotations

import copy
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.nn import tasks as host_tasks
from ultralytics.utils import DEFAULT_CFG_DICT

from pst.checkpoint import from_authors, load_safetensors, save_safetensors
from pst.files import replacing
from pst.integrations.ultralytics import guard
from pst.integrations.ultralytics.match import difference, find_bundled, shapes
from pst.integrations.ultralytics.plugin import register
from pst.integrations.ultralytics.portable import Checkpoint, from_fields, from_metadata, to_metadata
from pst.modules import PyramidSparseAttention

_ATTENTION = f"{PyramidSparseAttention.__module__}.{PyramidSparseAttention.__qualname__}"


def convert_checkpoint(src: str | Path, dst: str | Path) -> Checkpoint:
    """Convert a checkpoint: the authors' ``.pt``, ours or ``.safetensors``, to ours or ``.safetensors``.

    No pickle is executed. Weights are written as float32, whatever they were stored as, of the averaged model (EMA)
    where there is one. A ``.safetensors`` holds the state dict in our names and, as metadata, what `Checkpoint` lists;
    a ``.pt`` opens with `YOLO`, and with plain Ultralytics while the plugin is registered. Neither holds an optimizer:
    a training starts anew from it.

    Args:
        src: ``.pt`` or ``.safetensors``.
        dst: Likewise; written atomically, a file that exists is replaced.

    Returns:
        What was converted.

    Raises:
        FileNotFoundError: ``src``, or the folder of ``dst``, does not exist.
        ImportError: safetensors is needed and not installed.
        ValueError: A suffix is unknown, ``src`` and ``dst`` are one file, or ``src`` is damaged, names what a
            checkpoint must not (see `guard`), or holds weights that are not those of its model.
    """
    src, dst = Path(src), Path(dst)
    _check_suffix(dst)
    if not dst.parent.is_dir():
        raise FileNotFoundError(f"no folder {dst.parent}: make it first")
    checkpoint = read_checkpoint(src)
    if dst.exists() and dst.samefile(src):
        raise ValueError(f"{dst} would be overwritten by its own conversion: give another name")
    model = build(checkpoint)  # also proves that the weights fit
    if dst.suffix == ".safetensors":
        save_safetensors(checkpoint.state, dst, to_metadata(checkpoint))
    else:
        _save_atomically(_ultralytics_dict(checkpoint, model), dst)
    return checkpoint


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read any of the three formats; raises what `convert_checkpoint` does."""
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    register()
    return _read_pt(path) if path.suffix == ".pt" else from_metadata(*load_safetensors(path), path)


def build(checkpoint: Checkpoint) -> Any:
    """Ultralytics' model with the weights, names and k of ``checkpoint``: float32, on the CPU, in eval mode.

    Raises:
        ValueError: The weights are not those of the model that the YAML describes.
    """
    register()
    kind, channels = getattr(host_tasks, checkpoint.model_class), checkpoint.yaml["channels"]
    model = kind(copy.deepcopy(checkpoint.yaml), ch=channels, verbose=False)
    unlike = difference(shapes(model.state_dict()), shapes(checkpoint.state))
    layers = {name: m for name, m in model.named_modules() if isinstance(m, PyramidSparseAttention)}
    if unlike or checkpoint.attention.keys() - layers:
        raise ValueError(f"the weights are not those of {checkpoint.model}: {unlike or 'other attention layers'}")
    model.load_state_dict(checkpoint.state)
    for name, (topk, fusion) in checkpoint.attention.items():
        layers[name].topk, layers[name].fusion = topk, fusion
    model.names, model.task = dict(checkpoint.names), checkpoint.task
    model.args = {**DEFAULT_CFG_DICT, **_train_args(checkpoint)}
    return model.eval().requires_grad_(False)


def load(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Model and checkpoint dictionary of a ``.safetensors``, as Ultralytics' ``load_checkpoint`` gives of a ``.pt``."""
    checkpoint = read_checkpoint(path)
    model = build(checkpoint)
    model.pt_path = str(path)
    return model, _ultralytics_dict(checkpoint, model)


def _read_pt(path: Path) -> Checkpoint:
    pickled = guard.read(path)
    model = next(guard.models(pickled), None)
    if model is None:
        raise ValueError(f"{path} holds no Ultralytics model: pass a checkpoint that a training wrote")
    authors, cfg = guard.is_authors(pickled), model.state.get("yaml")
    fork = "PST authors' fork of " if authors else ""
    wrote = f"{fork}ultralytics {pickled.root.get('version')}"
    fields = {
        "model": Path(str(cfg.get("yaml_file"))).name if isinstance(cfg, dict) else "",
        "yaml": cfg,
        "model_class": model.name.rpartition(".")[2],
        "names": model.state.get("names"),
        "train_args": pickled.root.get("train_args"),
        "attention": {
            prefix[:-1]: [layer.state.get("_topk"), layer.state.get("_fusion")]
            for prefix, layer in pickled.modules(model)
            if layer.name == _ATTENTION
        },
        "source": str(pickled.root.get("converted_from", wrote)),
    }
    checkpoint = from_fields(from_authors(pickled.state_dict(model)), fields, path)
    bundled = find_bundled(checkpoint.state, checkpoint.yaml) if authors else None
    return checkpoint if bundled is None else checkpoint._replace(model=bundled[0], yaml=bundled[1])


def _train_args(checkpoint: Checkpoint) -> dict[str, Any]:
    return {**checkpoint.train_args, "task": checkpoint.task, "model": checkpoint.model}


def _ultralytics_dict(checkpoint: Checkpoint, model: Any) -> dict[str, Any]:
    """What Ultralytics writes at the end of a training."""
    empty = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "train_metrics", "train_results"))
    return {
        **empty,
        "epoch": -1,
        "model": model,
        "train_args": _train_args(checkpoint),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": ultralytics.__version__,
        "converted_from": checkpoint.source,
    }


def _save_atomically(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as part:
        torch.save(content, part)


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"expected a .pt or .safetensors file, got {path}")
