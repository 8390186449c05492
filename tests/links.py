"""Links of Markdown."""

from __future__ import annotations

import re

LINK = re.compile(r"\[([^]]*)\]\(([^)#]*)[^)]*\)")  # its words, its page


def unlinked(text: str) -> str:
    """The words alone, without where they lead."""
    return LINK.sub(r"\1", text)
