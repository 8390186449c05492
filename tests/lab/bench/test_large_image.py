"""The measurement of one large image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lab.bench import large_image


def test_every_bound_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["large_image", "--side", "96", "--max-tokens", "4", "9", "--out", str(tmp_path / "large.json")]
    monkeypatch.setattr(sys, "argv", argv)
    assert large_image.main() == 0
    written = json.loads((tmp_path / "large.json").read_text())
    assert {"created", "hardware", "versions", "commit", "seed"} <= written.keys()
    assert [(row["side"], row["max_tokens"]) for row in written["rows"]] == [(96, 4), (96, 9)]
    assert all(row["seconds"] > 0 and row["peak_memory_mb"] > 100 for row in written["rows"])
