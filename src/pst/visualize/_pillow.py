"""One place that asks for Pillow."""

from __future__ import annotations

from pst.io.versions import install_extra, is_installed


def require_pillow() -> None:
    """Raise ImportError with the command that installs Pillow when it is missing."""
    if not is_installed("PIL"):
        raise ImportError(f"pictures need Pillow: {install_extra('viz')}")
