"""The range of LibreYOLO versions that is tested, and one clear error outside it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

TESTED = "1.6"
_NEEDS = f"pst.integrations.libreyolo needs libreyolo {TESTED}.x"
_REMEDY = "pip install 'pyramid-sparse-transformer[libreyolo]'"


class HostError(ImportError):
    """LibreYOLO is missing, or is not what pst was written for."""


def check_version() -> None:
    """Raise `HostError` unless a LibreYOLO of the tested range is installed."""
    try:
        found = version("libreyolo")
    except PackageNotFoundError:
        raise HostError(f"{_NEEDS}, which is not installed: {_REMEDY}", name="libreyolo") from None
    if not found.startswith(f"{TESTED}."):
        raise HostError(f"{_NEEDS}, found {found}: {_REMEDY}", name="libreyolo")
