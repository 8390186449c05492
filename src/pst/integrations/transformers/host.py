"""The range of transformers versions that is tested, and one clear error for any other."""

from __future__ import annotations

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
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in found.split(".")[:2])
    if not OLDEST <= numbers < BEYOND:
        raise ImportError(f"pst.integrations.transformers needs {_WANTED}, found {found}: {_REMEDY}")


def incompatible(reason: str) -> ImportError:
    """The one error for a version in the range whose detectors are no longer what pst was written for."""
    return ImportError(f"transformers {version('transformers')} has other detectors than {_WANTED} had: {reason}")
