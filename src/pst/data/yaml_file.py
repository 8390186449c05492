"""YAML files that hold one mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no mapping, or is no YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no YAML file at {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(  # noqa: TRY004 the file is wrong, not a type
            f"{path} must hold `key: value` lines, it holds {type(values).__name__}"
        )
    return values
