"""docs/export.md: the snippet about modules of one's own runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_module_of_ones_own(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    monkeypatch.chdir(tmp_path)
    (code,) = (c for c in re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL) if "PST(" in c)
    exec(compile(code, "export.md", "exec"), {})
    (printed,) = capsys.readouterr().out.splitlines()
    assert f"# {printed}" in code
    assert (tmp_path / "layer.pt2").is_file()
