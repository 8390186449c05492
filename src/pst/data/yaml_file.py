"""YAML files that hold one mapping: plain values, whatever is in them read or refused in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pst.data.text import read_text, shown
from pst.io.files import check_file

_MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000
_DEEPEST = 20
_KINDS = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}

T = TypeVar("T")


class Strict(yaml.SafeLoader):
    """Plain values alone; no key twice, nothing deeper or, its aliases written out, longer than anyone writes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse what is nested too deep."""
        self._depth += 1
        if self._depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Refuse what is too much, and keys that stand twice in a mapping."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node


class _Text(Strict):
    """As `Strict`, every scalar as it is written: ``no`` is "no", ``2020-01-01`` and ``1`` are text."""


_Text.yaml_implicit_resolvers = {}


def read_mapping(path: str | Path, *, text: bool = False) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Args:
        path: The file, at most 1 MiB of UTF-8.
        text: Leave scalars as they are written, instead of numbers, dates, true and null.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no mapping, a key twice, or is not YAML.
    """
    return read_node(path, _Text if text else Strict, lambda loader, node: loader.construct_document(node))


def read_node(path: str | Path, kind: type[Strict], read: Callable[[Any, yaml.MappingNode], T]) -> T:
    """What ``read``, given the loader and its node, makes of a YAML file's mapping; errors as in `read_mapping`."""
    path = check_file(path, "YAML file")
    content = read_text(path, most=_MOST_BYTES)
    try:
        loader = kind(content)
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            return read(loader, node)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:  # e.g. of the date 2020-99-99
        raise ValueError(f"{path} is not YAML: {problem(error)}") from error
    raise ValueError(f"{path} must hold `key: value` lines, it holds {_KINDS.get(type(node), 'nothing')}")


def problem(error: Exception) -> str:
    """What YAML says, and the line."""
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error) or type(error).__name__
    return f"{' '.join(str(text).split()):.300}" + ("" if mark is None else f", line {mark.line + 1}")


def _count(node: yaml.Node, known: dict[int, int], inside: set[int]) -> int:
    """Values under a node with all aliases written out; raises beyond `_MOST_VALUES`, or for a key that comes twice."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in inside:
        raise yaml.MarkedYAMLError(problem="a value that holds itself", problem_mark=node.start_mark)
    if id(node) not in known:
        inside.add(id(node))
        seen: set[str] = set()
        for key in (pair[0] for pair in node.value if isinstance(pair, tuple)):
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {shown(key.value)} twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_count(part, known, inside) for part in parts)
        inside.remove(id(node))
    if known[id(node)] > _MOST_VALUES:
        raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, aliases written out")
    return known[id(node)]
