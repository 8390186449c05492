"""A model between two file formats: weights, and what of its checkpoint means the same anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from ultralytics.nn import tasks as host_tasks
from ultralytics.utils import DEFAULT_CFG_DICT

from pst.integrations.ultralytics.model_yaml import check_model_yaml
from pst.io.checkpoints import of_pst_train
from pst.io.files import first_line
from pst.modules import Settings

OPEN_VOCABULARY = ("WorldModel", "YOLOEModel", "YOLOESegModel")  # their classes are text features beside the weights
_TEXT_ARGS = ("optimizer", "task")  # the other arguments that are text name files and devices of one machine


class Checkpoint(NamedTuple):
    """A trained model.

    Attributes:
        state: State dict in our names; floating-point tensors are float32.
        model: Name of the YAML, e.g. "yolo11n-pst.yaml".
        yaml: The model's dictionary with its scale, nc and channels.
        model_class: Class in ``ultralytics.nn.tasks``, e.g. "DetectionModel".
        task: "detect", "segment", "classify", …
        names: Class names by index.
        train_args: Numbers and switches of the training, e.g. {"imgsz": 640, "epochs": 100}.
        attention: Settings of attention layers by name, as `pst.modules.Settings.plain` gives them; what is missing is
            as the YAML says.
        source: What wrote it, e.g. "PST authors' fork of ultralytics 8.3.105".
    """

    state: dict[str, Tensor]
    model: str
    yaml: dict[str, Any]
    model_class: str
    task: str
    names: dict[int, str]
    train_args: dict[str, Any]
    attention: dict[str, dict[str, Any]]
    source: str


def from_fields(state: Mapping[str, Tensor], fields: Mapping[str, Any], path: Path) -> Checkpoint:
    """Make a `Checkpoint` of what a file, which is not trusted, says: all that it lists but ``state`` and ``task``.

    Raises:
        ValueError: A field is malformed, or the YAML is refused.
    """
    kind = vars(host_tasks).get(str(fields["model_class"]))
    if not (isinstance(kind, type) and issubclass(kind, host_tasks.BaseModel)):
        raise ValueError(f"{path} holds a {fields['model_class']}, which is not a model of Ultralytics")  # noqa: TRY004
    try:
        plain = json.loads(json.dumps({**fields, "train_args": _plain_args(fields["train_args"])}))
        names = plain["names"]
        names = {int(i): name for i, name in (names.items() if isinstance(names, dict) else enumerate(names))}
        plain["attention"] = {name: _settings(values) for name, values in plain["attention"].items()}
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of a trained model: {first_line(error)}") from error
    if sorted(names) != [*range(len(names))] or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{path} has the class names {names}: wanted one text for each index from 0")
    check_model_yaml(plain["yaml"], path)
    cfg = plain["yaml"] if fields["model_class"] in OPEN_VOCABULARY else plain["yaml"] | {"nc": len(names)}
    channels = cfg.get("channels", cfg.get("ch", 3))
    if type(channels) is not int or channels < 1:
        raise ValueError(f"{path} has a model for images of {channels!r} channels: wanted an integer ≥ 1")
    task = "detect" if issubclass(kind, host_tasks.RTDETRDetectionModel) else host_tasks.guess_model_task(cfg)
    if task is None:
        raise ValueError(f"{path} has a model of no known task: its last row is {cfg['head'][-1]}")
    return Checkpoint(
        **plain
        | {
            "state": {name: t.float() if t.is_floating_point() else t for name, t in state.items()},
            "yaml": cfg | {"channels": channels},
            "task": task,
            "names": names,
        }
    )


def _settings(values: Any) -> dict[str, Any]:
    """Settings of one attention layer, checked; version 0.1 wrote them as [k, fusion, selection]."""
    if isinstance(values, list):
        if not 2 <= len(values) <= 3:
            raise ValueError(f"settings of a layer are k, fusion and selection, got {values!r:.80}")
        names = ("topk", "fusion", "selection")
        values = {name: value for name, value in zip(names, values, strict=False) if value is not None}
    Settings().changed(values)
    return values


def to_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """All of it but the state as texts, for the header of a safetensors file; what is not text is JSON."""
    fields = checkpoint._asdict()
    del fields["state"]
    extra = {"format": "pt", "nc": len(checkpoint.names), "imgsz": checkpoint.train_args.get("imgsz")}
    return {name: field if isinstance(field, str) else json.dumps(field) for name, field in (fields | extra).items()}


def from_metadata(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Checkpoint:
    """The inverse of `to_metadata`.

    Raises:
        ValueError: A field is missing or malformed, or the YAML is refused.
    """
    if "pst_train" in metadata:
        raise ValueError(of_pst_train(path))
    try:
        fields = {
            **{name: metadata[name] for name in ("model", "model_class", "source")},
            **{name: json.loads(metadata[name]) for name in ("yaml", "names", "train_args", "attention")},
        }
    except (KeyError, RecursionError, ValueError) as error:
        raise ValueError(
            f"{path} lacks metadata that says which model it is ({error}): write it with pst convert"
        ) from error
    return from_fields(state, fields, path)


def train_args(checkpoint: Checkpoint) -> dict[str, Any]:
    """Its training arguments, those included that say what it is."""
    return {**checkpoint.train_args, "task": checkpoint.task, "model": checkpoint.model}


def _plain_args(args: Any) -> dict[str, Any]:
    """The training arguments that Ultralytics knows and that mean the same on any machine."""
    known = {name: arg for name, arg in args.items() if name in DEFAULT_CFG_DICT} if isinstance(args, dict) else {}
    text = {name: arg for name, arg in known.items() if name in _TEXT_ARGS and isinstance(arg, str)}
    return {name: arg for name, arg in known.items() if isinstance(arg, (bool, int, float)) or name == "imgsz"} | text
