"""The range of transformers versions that is tested, and one clear error for any other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from pst.backbones.versions import TRANSFORMERS


def check_host() -> None:
    """Raise ImportError unless a version of transformers in the tested range is installed."""
    TRANSFORMERS.check("pst.integrations.transformers")


def incompatible(reason: str) -> ImportError:
    """The one error for a version in the range whose detectors are no longer what pst was written for."""
    return ImportError(f"transformers {version('transformers')} has other detectors than {TRANSFORMERS} had: {reason}")


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
