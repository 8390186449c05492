"""Settings of a run from defaults, a YAML file and overrides; every mistake is named before any work is done."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

from pst.io.names import nearest
from pst.train.config import CONFIGS, Config
from pst.train.values import convert, parse_value, read_lines

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def load_config(task: str, path: str | Path | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Settings of a run: defaults, over them a YAML file, over it the overrides.

    Args:
        task: "classify", "detect" or "segment".
        path: YAML file of ``key: value``; None uses the defaults alone. The ``config.yaml`` of a run is one.
        overrides: Texts ``key=value``, of which the last for a key counts, and ``model_args.out_channels=96`` for a
            key inside another; or a mapping. A value is read by the type of its field: what a field of text gets is
            never changed, and ``null`` gives a field None that may be so. Inside ``model_args`` it is read as YAML.

    Returns:
        The task's settings, checked.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        TypeError: ``overrides`` is one text.
        ValueError: A key is unknown (the message names the nearest) or twice in the file, a value of another type or
            out of range, the file no mapping or of another task, or ``data`` is missing.
    """
    kind = CONFIGS.get(typing.cast("Any", task))
    if kind is None:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(CONFIGS)}")
    types_ = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    if path is not None:
        for line in read_lines(path, _mappings(types_)):
            with _at(f"{path}, line {line.number}: "):
                values[line.key] = _checked(task, types_, line.key, line.value)
    if isinstance(overrides, str):
        raise TypeError(
            f"overrides must be a list of key=value, got the text {overrides[:80]!r}: write [{overrides[:80]!r}]"
        )
    pairs = overrides.items() if isinstance(overrides, Mapping) else _parsed(overrides, types_)
    for key, value in pairs:
        _insert(values, key, value)
    for key, value in values.items():
        values[key] = _checked(task, types_, key, value)
    values.pop("task", None)
    for field in fields(kind):
        if field.default is MISSING and field.default_factory is MISSING and values.get(field.name) is None:
            raise ValueError(f"{field.name!r} is missing: give {field.name}=…, or a config file that has it")
    return kind(**values)


def _mappings(types_: Mapping[str, Any]) -> list[str]:
    """Keys whose values are mappings or lists alone; one that also takes text is text wherever a scalar stands."""
    texts = {key for key, wanted in types_.items() if isinstance(wanted, types.UnionType) and str in get_args(wanted)}
    return [key for key, wanted in types_.items() if re.search("dict|list", str(wanted)) and key not in texts]


def _checked(task: str, types_: Mapping[str, Any], key: Any, value: Any) -> Any:
    """``value`` as the field ``key`` holds it."""
    if key == "task":
        if value != task:
            raise ValueError(f"the settings are of the task {value!r}, wanted {task!r}")
        return value
    if key not in types_:
        raise ValueError(f"unknown key {key!r} for {task}{nearest(key, list(types_))}")
    return convert(key, value, types_[key])


def _parsed(overrides: Sequence[str], types_: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    mappings = _mappings(types_)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not (equals and _KEY.fullmatch(key)):
            raise ValueError(f"expected key=value, got {override!r}")
        if not text:
            optional = type(None) in typing.get_args(types_.get(key))
            raise ValueError(f"{key}= has no value: give one{', or null for none' if optional else ''}")
        if key.partition(".")[0] in mappings:
            with _at(f"{key}: "):
                value = parse_value(text)
            yield key, value
        else:
            yield key, None if text == "null" and type(None) in typing.get_args(types_.get(key)) else text


def _insert(values: dict[str, Any], key: Any, value: Any) -> None:
    """Set ``key``, or with dots in it a key inside another; mappings around it keep their other keys."""
    *outer, last = key.split(".") if isinstance(key, str) else [key]
    for name in outer:
        inside = values.get(name)
        values[name] = values = dict(inside) if isinstance(inside, dict) else {}
    values[last] = value


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Put a place in front of the sentence of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error
