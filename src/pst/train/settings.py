"""Settings of a run from defaults, a YAML file and overrides; every mistake is named before any work is done."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from pst.data.yaml_file import read_mapping
from pst.train.config import CONFIGS, Config


def load_config(task: str, path: str | Path | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Settings of a run: defaults, over them a YAML file, over it the overrides.

    Args:
        task: "classify", "detect" or "segment".
        path: YAML file of ``key: value``; None uses the defaults alone. The ``config.yaml`` of a run is one.
        overrides: Texts ``key=value``, the value as in YAML and ``model_args.out_channels=96`` for a key inside
            another; or a mapping.

    Returns:
        The task's settings, checked.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: A key is unknown (the message names the nearest), a value of another type or out of range, the
            file no mapping or of another task, or ``data`` is missing.
    """
    kind = CONFIGS.get(typing.cast("Any", task))
    if kind is None:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(CONFIGS)}")
    values = {} if path is None else read_mapping(path)
    if not isinstance(overrides, Mapping):
        overrides = dict(_parse(text) for text in overrides)
    for key, value in overrides.items():
        outer, _, inner = key.partition(".")
        inside = values.get(outer)
        values[outer] = {**(inside if isinstance(inside, dict) else {}), inner: value} if inner else value
    named = values.pop("task", task)
    if named != task:
        raise ValueError(f"the settings are of the task {named!r}, wanted {task!r}")
    types_ = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f"unknown key {key!r} for {task}{_nearest(key, known)}")
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    for key in required:
        if values.get(key) is None:
            raise ValueError(f"{key!r} is missing: give {key}=…, or a config file that has it")
    return kind(**{key: _converted(key, value, types_[key]) for key, value in values.items()})


def _parse(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"expected key=value, got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {text!r} is not YAML: {error}") from error


def _nearest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f": did you mean {close[0]!r}?"


def _converted(key: str, value: Any, wanted: Any) -> Any:
    """``value`` as the type of the field; YAML reads 1e-3 as text and 1 as an integer, both are floats here."""
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for option in options:
        origin = typing.get_origin(option)
        if origin is Literal and value in typing.get_args(option):
            return value
        if option is types.NoneType and value is None:
            return value
        if option is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                continue
        if option is str and isinstance(value, (str, Path)):
            return str(value)
        plain = origin if origin in (dict, list) else option
        if plain in (bool, int, dict, list) and type(value) is plain:
            return value
    text = " or ".join(
        repr(list(typing.get_args(o))) if typing.get_origin(o) is Literal else getattr(o, "__name__", str(o))
        for o in options
    )
    raise ValueError(f"{key} must be {text}, got {value!r}")
