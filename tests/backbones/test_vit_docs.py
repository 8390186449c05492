"""docs/vit.md: its snippets run in order, those that ask the Hub aside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

DOCUMENT = (Path(__file__).parents[2] / "docs/vit.md").read_text(encoding="utf-8")


def test_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    code = "".join(snippet for snippet in snippets if '"hf:' not in snippet)
    assert code.count("PSTSegmenter(") == 2
    exec(compile(code, "vit.md", "exec"), {})
    [printed] = re.findall(r"^print\(.*\)\n# (.*)$", code, re.MULTILINE)
    assert printed in capsys.readouterr().out.splitlines()
    assert (tmp_path / "plain-vit/model.safetensors").is_file()
