"""Values of settings as people write them: text becomes what its field holds, and nothing else.

A field that holds text gets the very characters that were written: ``007``, ``yes``, ``2020-01-01``, ``a #3`` and
``${x}`` are names like any other. Only inside a mapping (`model_args`), whose fields are not known, a scalar is what
YAML 1.2 takes it for.
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from yaml.constructor import ConstructorError

from pst.data.yaml_file import Strict, problem, read_node
from pst.io.names import nearest

_CORE = "tag:yaml.org,2002:"
_TAGS = {_CORE + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping {key: value}",
    list: "a list of numbers",
}
_SCALARS = (bool, int, float, str, types.NoneType)
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Line(NamedTuple):
    """One ``key: value`` of a file: the text of a scalar, or a YAML value where the key takes more than text."""

    number: int
    key: str
    value: Any


class _Loader(Strict):
    """The core schema of YAML 1.2: no dates, no octal or sexagesimal numbers, and 1e-3 is a number."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(_CORE + _tag, re.compile(f"^(?:{_pattern})$"), list(_first))


def read_lines(path: str | Path, mappings: Sequence[str]) -> list[Line]:
    """The settings in a YAML file; ``mappings`` are the keys that take more than text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, holds no mapping, a key twice, or something that is not understood; the message has
            the line.
    """
    return read_node(path, _Loader, lambda loader, node: [_line(loader, k, v, mappings) for k, v in node.value])


def _line(loader: _Loader, key: Any, value: Any, mappings: Sequence[str]) -> Line:
    if not isinstance(key, yaml.ScalarNode):
        raise ConstructorError(None, None, "a key must be one word", key.start_mark)
    return Line(key.start_mark.line + 1, key.value, _plain(loader, value, text=key.value not in mappings))


def _plain(loader: _Loader, node: Any, *, text: bool) -> Any:
    """Text of a scalar, None for YAML's null, and what YAML makes of a mapping or list."""
    if node.tag not in _TAGS:
        raise ConstructorError(None, None, f"the tag {node.tag} is not understood", node.start_mark)
    if text and isinstance(node, yaml.ScalarNode) and node.tag != f"{_CORE}null":
        return node.value
    return loader.construct_object(node, deep=True)


def parse_value(text: str) -> Any:
    """A value inside a mapping from the command line: a number, true, false, null, ``[…]``, ``{…}``, quoted or text.

    Raises:
        ValueError: A bracket or quote is not closed.
    """
    if text[:1] not in "[{\"'":
        loader = _Loader("")
        return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text))
    try:
        loader = _Loader(text)
        node: Any = loader.get_single_node()
        if rest := text[node.end_mark.index :].strip():
            raise ValueError(f"{rest!r} stands after the end of {text[: node.end_mark.index]!r}")
        return _plain(loader, node, text=False)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{text!r} is not YAML: {problem(error)}") from error


def convert(key: str, value: Any, wanted: Any) -> Any:
    """``value`` as a field of type ``wanted`` holds it: text is read by that type, anything else must be of it.

    Raises:
        ValueError: It cannot be; the message says what was wanted.
    """
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for option in options:
        accepted, result = _as(option, value, text=str in options)
        if accepted:
            return result
    known = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    names = [f"one of {', '.join(known)}"] if known else []
    names += [_NAMES[typing.get_origin(o) or o] for o in options if (typing.get_origin(o) or o) in _NAMES]
    names += ["null"] if types.NoneType in options else []
    got = "null" if value is None else repr(value)
    raise ValueError(f"{key} must be {' or '.join(names)}, got {got:.200}{nearest(value, known, 0.7)}")


def _as(option: Any, value: Any, *, text: bool) -> tuple[bool, Any]:
    """Whether ``value`` can be of one type, and as what."""
    origin = typing.get_origin(option) or option
    word = value.strip().lower() if isinstance(value, str) else ""
    if origin is Literal:
        return value in typing.get_args(option), value
    if origin is types.NoneType:
        return value is None or (not text and word in ("null", "none")), None
    if origin is str:
        return isinstance(value, (str, Path)) and "\0" not in str(value), str(value)
    if origin is bool:
        return isinstance(value, bool) or word in _WORDS, _WORDS.get(word, value)
    if origin is int:
        accepted = type(value) is int or re.fullmatch(r"[-+]?[0-9]{1,1000}", word) is not None
        return accepted, int(value) if accepted else value
    if origin is float:
        return _as_float(value, word)
    if origin is list:
        is_list = isinstance(value, (list, tuple))
        parts = [_as(typing.get_args(option)[0], each, text=text) for each in value] if is_list else []
        return is_list and all(fits for fits, _ in parts), [each for _, each in parts]
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value), value
    return False, value


def _as_float(value: Any, word: str) -> tuple[bool, Any]:
    if type(value) not in (int, float) and not (word and "_" not in word):
        return False, value
    try:
        return True, float(word or value)
    except (ValueError, OverflowError):
        return False, value


def as_yaml_has_it(key: str, value: Any) -> Any:
    """A value that Python code gives, as a YAML file would hold it: tuples are lists, paths text.

    Raises:
        TypeError: YAML has no such value.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict) and all(type(inner) in _SCALARS for inner in value):
        return {inner: as_yaml_has_it(key, each) for inner, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_yaml_has_it(key, each) for each in value]
    if type(value) in _SCALARS:
        return value
    raise TypeError(
        f"{key} holds {value!r:.200}, a {type(value).__name__}: give what a YAML file can hold, numbers, text, "
        "lists and mappings"
    )
