"""What a model's description may hold when a file has it: names, numbers and switches, and no place to fetch from."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_parameter_registration_hook

from pst.io.names import one_line

_NAME = re.compile(r"[\w.+-]*")  # of a network, a rule, an activation; no path, no URL, no "hf-hub:…"
_SOURCE = re.compile(
    r"pretrained(?!_window)|checkpoint|weights|url|file|cache|state_dict|custom_load|feature_cls|features_only|"
    r"(^|_)(path|dir|folder|hub|id|source)$|^hf_"
)
_MAX_NUMBER, _MAX_DEPTH, _MAX_PARTS = 100_000, 6, 10_000
_SPARE = 20_000_000  # numbers of layers that a builder makes and drops, as heads for 1000 classes


def check_model_config(config: Any, source: object) -> None:
    """Raise ValueError unless arguments by name can build a model without fetching anything and within reason."""
    if not isinstance(config, dict):
        raise ValueError(  # noqa: TRY004  # a file is wrong, not a type
            f"{source} is not loaded: its configuration is a {type(config).__name__}, no mapping"
        )
    if fault := model_config_fault(config):
        raise ValueError(f"{source} is not loaded: its configuration has {fault}")


def model_config_fault(config: Mapping[str, Any]) -> str:
    """The first value with which `check_model_config` refuses arguments, and why; "" if there is none."""
    stack: list[tuple[str, Any, int]] = [("", config, 0)]
    for _ in range(_MAX_PARTS):
        if not stack:
            return ""
        key, value, depth = stack.pop()
        if reason := _fault(key, value, depth):
            return f"{one_line(key)}={str(value)[:80]!r}, {reason}"
        if isinstance(value, dict):
            stack += [(str(name), part, depth + 1) for name, part in value.items()]
        elif isinstance(value, (list, tuple)):
            stack += [(key, part, depth + 1) for part in value]
    return f"more than {_MAX_PARTS} values"


def _fault(key: str, value: Any, depth: int) -> str:
    """What stands against a value; "" for nothing."""
    if _SOURCE.search(key) and value not in (None, False):
        return "which says where weights come from, and a saved model has its own"
    if isinstance(value, str) and not _NAME.fullmatch(value):
        return "a text that is not a name"
    if isinstance(value, (int, float)) and not abs(value) <= _MAX_NUMBER:  # NaN is not, either
        return f"a number beyond {_MAX_NUMBER:,}"
    if not isinstance(value, (str, int, float, dict, list, tuple, type(None))):
        return "which is not text, number, list or mapping"
    return f"nested deeper than {_MAX_DEPTH}" if depth > _MAX_DEPTH else ""


@contextmanager
def at_most(held: int, source: object) -> Iterator[None]:
    """Stop building a model, inside the with block, once it is far larger than its weights: before memory is filled.

    Raises:
        ValueError: It has far more than the ``held`` numbers of its weights; the message names ``source``.
    """
    made = {False: 0, True: 0}  # in memory; on the meta device, where a builder asks for shapes
    builder = threading.get_ident()

    def count(*registered: Any) -> None:  # module, name, parameter
        parameter = registered[2]
        if parameter is None or threading.get_ident() != builder:  # the hook is called for all threads
            return
        made[parameter.is_meta] += parameter.numel()
        if made[parameter.is_meta] > 4 * held + _SPARE:
            raise ValueError(f"{source} is not loaded: its settings describe far more than the {held:,} numbers in it")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
