"""docs/timm.md: its snippets run in order and its table is what `measure` counts."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pst.integrations.timm import measure

DOCUMENT = (Path(__file__).parents[2] / "docs/timm.md").read_text(encoding="utf-8")


def test_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 4
    code = "".join(snippets)
    assert "pretrained=True" in code
    names: dict[str, torch.Tensor] = {}
    exec(
        compile(code.replace("pretrained=True", "pretrained=False"), "timm.md", "exec"), names
    )  # no download in a test
    assert names["logits"].shape == (2, 10)
    printed = capsys.readouterr().out.splitlines()
    for line in re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE):
        assert line in printed
    assert (tmp_path / "flowers/model.safetensors").is_file()


def test_table_is_what_is_counted():
    rows = re.findall(
        r"^\| `(pst_\w+)` \| ([\d.]+) M \| ([\d.]+) M \| ([\d.]+) \| ([\d.]+) \|$", DOCUMENT, re.MULTILINE
    )
    assert len(rows) == 8
    for name, *cells in rows:
        fused, plain = measure(name), measure(name.removeprefix("pst_"))
        counted = [fused.parameters / 1e6, plain.parameters / 1e6, fused.gflops, plain.gflops]
        assert cells == [f"{n:.2f}" for n in counted], name
