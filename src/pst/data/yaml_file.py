"""YAML files that hold one mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pst.data.text import read_text, shown

_MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000
_DEEPEST = 20
_LONGEST = 300  # letters of PyYAML's reason


class _Strict(yaml.SafeLoader):
    """Plain values alone; no key twice, nothing deeper or, its aliases written out, longer than anyone writes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"more than {_DEEPEST} levels, line {self.peek_event().start_mark.line + 1}")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"the key {shown(key.value)} twice, line {key.start_mark.line + 1}")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Text(_Strict):
    """As `_Strict`, every scalar as it is written: ``no`` is "no", ``2020-01-01`` and ``1`` are text."""


_Text.yaml_implicit_resolvers = {}


def read_mapping(path: str | Path, *, text: bool = False) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Args:
        path: The file, at most 1 MiB of UTF-8.
        text: Leave scalars as they are written, instead of numbers, dates, true and null.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no mapping, a key twice, or is no YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no YAML file at {path}")
    content = read_text(path, most=_MOST_BYTES)
    try:
        loader = (_Text if text else _Strict)(content)
        values = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:  # e.g. of the date 2020-99-99
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML: {reason[:_LONGEST]}{'…' * (len(reason) > _LONGEST)}") from error
    if not isinstance(values, dict):
        raise ValueError(  # noqa: TRY004 the file is wrong, not a type
            f"{path} must hold `key: value` lines, it holds {type(values).__name__}"
        )
    return values


def _count(node: yaml.Node, known: dict[int, int], inside: set[int]) -> int:
    """Values under a node with all aliases written out; raises beyond `_MOST_VALUES`."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in inside:
        raise yaml.YAMLError(f"a value that holds itself, line {node.start_mark.line + 1}")
    if id(node) not in known:
        inside.add(id(node))
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_count(part, known, inside) for part in parts)
        inside.remove(id(node))
    if known[id(node)] > _MOST_VALUES:
        raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, aliases written out")
    return known[id(node)]
