"""Which versions of a host library fit; it is not imported to find out."""

from __future__ import annotations

from importlib import metadata

TRANSFORMERS = (5, 24), (6,)
"""The first version of Hugging Face transformers that fits, and the first that is not known to."""


def check_transformers() -> None:
    """See whether a fitting transformers is installed.

    Raises:
        ImportError: It is missing or of another version; the message names the range.
    """
    low, high = (".".join(map(str, version)) for version in TRANSFORMERS)
    wanted = f"transformers ≥ {low}, < {high}, is needed"
    remedy = "pip install 'pyramid-sparse-transformer[transformers]'"
    try:
        found = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        raise ImportError(f"{wanted} and not installed: {remedy}") from None
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not TRANSFORMERS[0] <= numbers < TRANSFORMERS[1]:
        raise ImportError(f"{wanted}, found {found}: {remedy}")
