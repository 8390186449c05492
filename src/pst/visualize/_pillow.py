"""One place that asks for Pillow."""

from __future__ import annotations

from importlib.util import find_spec

from pst.io.versions import install_extra


def require_pillow() -> None:
    """Raise ImportError with the command that installs Pillow when it is missing."""
    if find_spec("PIL") is None:
        raise ImportError(f"pictures need Pillow: {install_extra('viz')}")
