"""docs/vit.md: its snippets run in order, those that ask the Hub aside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

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


def test_operations_of_the_finest_level_are_told():
    """The table's GFLOPs, "8 → 4" without a bound and with one, are those that are counted."""
    from pst.integrations.segmentation import PSTSegmenter
    from pst.integrations.torchvision import pst_backbone
    from pst.integrations.torchvision.size import measure
    from pst.profile.flops import count_flops

    def counted(build, *args, **options):
        with torch.device("meta"):
            return count_flops(build(*args, **options).eval(), torch.empty(1, 3, 640, 640)) / 1e9

    rows = {
        "`PSTSegmenter` of 11 classes, ResNet-18": lambda finest, bound: counted(
            PSTSegmenter, classes=11, finest=finest, neck_options=bound
        ),
        "`PSTFeatures` and `pst_backbone`, ResNet-18": lambda finest, bound: counted(
            pst_backbone, "resnet18", finest=finest, neck_options=bound
        ),
        '`fcos` of 91 classes, `neck="pst"`, ResNet-18': lambda finest, bound: (
            measure("pst_fcos_resnet18", finest=finest, backbone_options={"neck_options": bound}).gflops
        ),
    }
    for start, gflops in rows.items():
        free, bounded = (
            " → ".join(f"{gflops(finest, bound):.1f}" for finest in (8, 4)) for bound in ({}, {"max_tokens": 100})
        )
        [row] = [line for line in DOCUMENT.splitlines() if line.startswith(f"| {start} |")]
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert (cells[1], cells[3]) == (free, bounded), start
    plain = [measure("fcos_resnet18", finest=n).gflops for n in (8, 4)]
    assert "`fcos` goes from {:.1f} to {:.1f} GFLOPs".format(*plain) in DOCUMENT
