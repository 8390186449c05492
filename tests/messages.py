"""What an error has to say: the parts that matter, not the words between them."""

from __future__ import annotations

import re


def says(parts: str) -> str:
    """A pattern for ``match=``: every part of "topk … integer … 8.0", in this order and in one line."""
    return ".*".join(re.escape(part) for part in parts.split(" … "))
