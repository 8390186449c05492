"""The versions of host libraries that bodies are tested with."""

from pst.io.versions import Range

TRANSFORMERS = Range("transformers", (5, 4), (6, 0))
