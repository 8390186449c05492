"""The range of LibreYOLO versions that is tested, and what is said where one has moved what pst hooks into."""

from __future__ import annotations

from pst.io.versions import Range

LIBREYOLO = Range("libreyolo", (1, 6), (1, 7))


def check_version() -> None:
    """Raise ImportError unless a LibreYOLO of the tested range is installed."""
    LIBREYOLO.check("pst.integrations.libreyolo")
