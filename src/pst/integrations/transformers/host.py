"""The range of transformers versions that is tested, and one clear error for any other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

OLDEST, BEYOND = (5, 4), (6,)
_WANTED = f"transformers ≥ {OLDEST[0]}.{OLDEST[1]} and < {BEYOND[0]}"
_REMEDY = "pip install 'pyramid-sparse-transformer[transformers]'"


def check_host() -> None:
    """Raise ImportError unless a version of transformers in the tested range is installed."""
    try:
        found = version("transformers")
    except PackageNotFoundError:
        raise ImportError(f"pst.integrations.transformers needs {_WANTED}, which is not installed: {_REMEDY}") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or not OLDEST <= tuple(map(int, numbers.groups())) < BEYOND:
        raise ImportError(f"pst.integrations.transformers needs {_WANTED}, found {found}: {_REMEDY}")


def incompatible(reason: str) -> ImportError:
    """The one error for a version in the range whose detectors are no longer what pst was written for."""
    return ImportError(f"transformers {version('transformers')} has other detectors than {_WANTED} had: {reason}")


@contextmanager
def unchecked() -> Iterator[None]:
    """Without transformers' checks of values, which the meta device has not and exported programs should not hold."""
    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
