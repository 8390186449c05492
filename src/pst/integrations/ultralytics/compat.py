"""The range of Ultralytics versions that is tested, and one clear error where a version moved what pst hooks into."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import ultralytics

from pst.io.versions import HostError

TESTED = "8.4"
_REMEDY = f'pip install "ultralytics=={TESTED}.*"'


def warn_untested() -> None:
    """Warn when the installed version is outside the tested range."""
    if not ultralytics.__version__.startswith(f"{TESTED}."):
        warnings.warn(
            f"pst is tested with ultralytics {TESTED}.x, found {ultralytics.__version__}: "
            f"if a model fails to build or to train, {_REMEDY}",
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
        f"tested range {TESTED}.x: {_REMEDY}"
    )
