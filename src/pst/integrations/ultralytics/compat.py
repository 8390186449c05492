"""The range of Ultralytics versions that is tested, and one clear error where a version moved what pst hooks into."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import ultralytics

from pst.io.versions import HostError, Range, install_extra

TESTED = Range("ultralytics", (8, 4, 167), (8, 5))  # earlier ones build other ResNets and keep a YAML's activation


def warn_untested() -> None:
    """Warn when the installed version is outside the tested range."""
    if not TESTED.has(ultralytics.__version__):
        warnings.warn(
            f"pst is tested with {TESTED}, found {ultralytics.__version__}, where models may be others: "
            f"{install_extra('ultralytics')}",
            stacklevel=3,
        )


def check_function(owner: Any, name: str, parameters: tuple[str, ...]) -> None:
    """Raise `incompatible` unless ``owner`` has a function ``name`` whose parameters begin with these."""
    function = getattr(owner, name, None)
    if not callable(function):
        raise incompatible(name, f"{owner.__name__} has no such function")
    signature = inspect.signature(function)
    if tuple(signature.parameters)[: len(parameters)] != parameters:
        raise incompatible(name, f"its signature is {signature}, wanted one that begins ({', '.join(parameters)})")


def incompatible(name: str, reason: object) -> HostError:
    """The one error for a host whose function ``name`` is no longer what pst was written for."""
    return HostError(
        f"pst's hook into ultralytics {ultralytics.__version__}'s {name} failed: {reason}; "
        f"tested with {TESTED}: {install_extra('ultralytics')}"
    )
