"""Models built of what checkpoints say: the authors' ``.pt``, ours and safetensors. Needs the plugin switched on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ultralytics
from ultralytics.nn import tasks as host_tasks
from ultralytics.utils import DEFAULT_CFG_DICT

from pst.control.layers import find_attention
from pst.integrations.ultralytics.build import build
from pst.integrations.ultralytics.decoded import DecodedModel, decode
from pst.integrations.ultralytics.guard import is_own, is_protected, protected
from pst.integrations.ultralytics.match import find_bundled
from pst.integrations.ultralytics.portable import (
    OPEN_VOCABULARY,
    Checkpoint,
    from_fields,
    from_metadata,
    train_args,
)
from pst.io import safe_load
from pst.io.checkpoints import from_authors, load_safetensors
from pst.io.files import check_file

# Entries of a checkpoint that a training goes on with, or reports.
_ENTRIES = (
    *("epoch", "best_fitness", "updates", "optimizer", "scaler", "stopper", "train_metrics", "train_results", "git"),
    *("date", "version", "license", "docs", "converted_from"),
)
_TRAIN_ARGS = frozenset(DEFAULT_CFG_DICT) | {"save_dir"}


def load(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Model and checkpoint dictionary of a file, as Ultralytics' ``load_checkpoint`` gives, and nothing executed.

    The model is built of its YAML and filled with the file's weights, in float32 and in eval mode. Of the other entries
    those that a training goes on with are there, as plain data.

    Raises:
        FileNotFoundError: No such file.
        ValueError: See `convert_checkpoint`; or it is a checkpoint of the PST authors' fork of Ultralytics, which has
            to be converted first.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        checkpoint, model = open_checkpoint(path)
        content = ultralytics_dict(checkpoint, model)
    else:
        model, content = _of_decoded(DecodedModel(path))
    model.pt_path = str(path)
    return model, content


def _of_decoded(decoded: DecodedModel) -> tuple[Any, dict[str, Any]]:
    path = decoded.path
    if decoded.authors:
        target = path.with_name(f"{path.stem}-converted.pt")
        raise ValueError(
            f"{path} is a checkpoint of the PST authors' fork of Ultralytics: convert it first, with "
            f"pst convert {path} {target}"
        )
    checkpoint, model = _open_decoded(decoded)
    content = _content(decoded, model)
    if checkpoint.model_class in OPEN_VOCABULARY:
        _restore_classes(model, decoded)
    model.args = {**DEFAULT_CFG_DICT, **content["train_args"]}
    return model, content


def load_any(path: str | Path) -> Any:
    """What ``torch.load`` gives of a file that holds a model or none, and nothing executed; see `load`."""
    root = decode(path)
    if isinstance(root, dict) and any(isinstance(root.get(key), safe_load.Record) for key in ("ema", "model")):
        model, content = _of_decoded(DecodedModel(path, root))
        model.pt_path = str(path)
        return content
    try:
        return safe_load.plain(root, tensors=True)
    except ValueError as error:
        raise ValueError(f"{path} is not loaded: it has {error}; {safe_load.TRUST}") from error


def torch_load(original: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
    """Ultralytics' ``torch_load``, which unpickles: where files are not trusted, a model is built of what they say."""
    path = Path(file if isinstance(file, (str, Path)) else file.name)
    if not is_protected() or is_own(path):
        return original(file, *args, **kwargs)
    return load_any(path)


def open_checkpoint(path: Path, *, trust: bool = False) -> tuple[Checkpoint, Any]:
    """What is in a file, and the model; raises what `convert_checkpoint` does."""
    check_suffix(path)
    check_file(path, "checkpoint")
    if path.suffix == ".safetensors":
        checkpoint = from_metadata(*load_safetensors(path), path)
        return checkpoint, build(checkpoint, path)
    try:
        return _open_decoded(DecodedModel(path))
    except ValueError:
        if not trust:
            raise
    with protected(False):
        model, content = host_tasks.load_checkpoint(path)
    return _of_model(model, content, path), model


def _open_decoded(decoded: DecodedModel) -> tuple[Checkpoint, Any]:
    cfg, path = decoded.said("yaml"), decoded.path
    wrote = f"{_fork(decoded)}ultralytics {decoded.entry('version')}"
    fields = {
        "model": Path(str(cfg.get("yaml_file"))).name if isinstance(cfg, dict) else "",
        "yaml": cfg,
        "model_class": decoded.class_name,
        "names": decoded.said("names"),
        "train_args": decoded.entry("train_args"),
        "attention": decoded.attention(),
        "source": str(decoded.entry("converted_from") or wrote),
    }
    checkpoint = from_fields(from_authors(decoded.state_dict()), fields, path)
    bundled = find_bundled(checkpoint.state, checkpoint.yaml) if decoded.authors else None
    if bundled is not None:
        checkpoint = checkpoint._replace(model=bundled[0], yaml=bundled[1])
    model = build(checkpoint, path)
    if not decoded.authors:
        decoded.check_layers(model)
    return checkpoint, model


def _fork(decoded: DecodedModel) -> str:
    return "PST authors' fork of " if decoded.authors else ""


def _of_model(model: Any, content: dict[str, Any], path: Path) -> Checkpoint:
    """What a trusted file holds."""
    fields = {
        "model": Path(str(model.yaml.get("yaml_file"))).name,
        "yaml": model.yaml,
        "model_class": type(model).__name__,
        "names": model.names,
        "train_args": content.get("train_args"),
        "attention": {name: layer.settings.plain() for name, layer in find_attention(model).items()},
        "source": str(content.get("converted_from", f"ultralytics {content.get('version')}")),
    }
    return from_fields(model.state_dict(), fields, path)


def _content(decoded: DecodedModel, model: Any) -> dict[str, Any]:
    """The checkpoint's dictionary with the model at its place."""
    entries = {name: decoded.entry(name, tensors=True) for name in _ENTRIES if name in decoded.entries}
    args = decoded.entry("train_args")
    args = {name: arg for name, arg in args.items() if name in _TRAIN_ARGS} if isinstance(args, dict) else {}
    if "://" in str(args.get("data")):
        args["data"] = None  # a file does not decide what is downloaded, nor where a resumed training writes
    args = {name: arg for name, arg in args.items() if name not in ("save_dir", "project", "augmentations")}
    if decoded.path.parent.name == "weights":
        args["save_dir"] = str(decoded.path.parent.parent)
    place = {"model": None, "ema": model} if decoded.averaged else {"model": model, "ema": None}
    return {**entries, **place, "train_args": args}


def _restore_classes(model: Any, decoded: DecodedModel) -> None:
    """The classes that a model of an open vocabulary was set to."""
    for name in ("txt_feats", "pe"):
        if (t := decoded.tensor(name)) is not None:
            setattr(model, name, t.float())
    model.model[-1].nc = len(model.names)


def ultralytics_dict(checkpoint: Checkpoint, model: Any) -> dict[str, Any]:
    """What Ultralytics writes at the end of a training."""
    empty = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "train_metrics", "train_results"))
    return {
        **empty,
        "epoch": -1,
        "model": model,
        "train_args": train_args(checkpoint),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": ultralytics.__version__,
        "converted_from": checkpoint.source,
    }


def check_suffix(path: Path) -> None:
    """Raise ValueError unless it is a ``.pt`` or ``.safetensors``."""
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"expected a .pt or .safetensors file, got {path}")
