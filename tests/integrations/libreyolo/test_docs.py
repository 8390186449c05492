"""docs/libreyolo.md: its snippets run, its table is what is counted, and what it says is in the way still is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libreyolo", reason="LibreYOLO is not installed")

import libreyolo

import tiny_data
from pst.control.layers import find_attention
from pst.integrations.libreyolo.size import measure

DOCUMENT = (Path(__file__).parents[3] / "docs/libreyolo.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")  # the host's
def test_snippets_run_in_order(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    tiny_data.yolo(tmp_path, 4, 2).joinpath("data.yaml").rename("cells.yaml")
    libreyolo.LibreYOLO9(None, size="t", device="cpu").save("LibreYOLO9s.pt")  # its tiniest: nothing is downloaded
    code = "".join(re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
    assert "epochs=50)" in code
    names: dict[str, Any] = {}
    short = "epochs=1, imgsz=64, batch=4, workers=0, device='cpu')"
    exec(compile(code.replace("epochs=50)", short), "libreyolo.md", "exec"), names)
    layers = find_attention(names["model"].model).values()
    assert {(layer.topk, layer.settings.max_tokens) for layer in layers} == {(4, 100)}
    assert names["model"].names == dict(enumerate(tiny_data.CLASSES))
    assert names["runtime"].names == names["model"].names


ROWS = re.findall(r"^\| (YOLO9\S*) `(\w)` \| (.+) M \| (.+) M \| (.+) \| (.+) \|$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=[pytest.mark.slow] * (r[1] in "mc" or r[0] != "YOLO9")) for r in ROWS], ids=str
)
def test_table_is_what_is_counted(row):
    assert len(ROWS) == 6
    kind, size, *cells = row
    name = f"{kind.lower()}-{size}"
    plain, fused = measure(name), measure(f"pst_{name}")
    assert cells == [f"{n:.2f}" for n in (fused.parameters / 1e6, plain.parameters / 1e6, fused.gflops, plain.gflops)]
    if "p2" in name:
        bounded = measure(f"pst_{name}", max_tokens=400).gflops
        assert re.search(rf"`max_tokens=400` bounds that, .*{bounded:.2f}.* GFLOPs", DOCUMENT)


def test_what_is_in_the_way_of_the_others_still_is():
    """When this fails, LibreYOLO has the hook that the document asks for."""
    for name in ("LibreYOLOX", "LibrePICODET", "LibreRTMDet", "LibreDFINE", "LibreDEIM"):
        family = getattr(libreyolo, name)
        assert not hasattr(family, "_trainer_class"), name
        assert not hasattr(family, "_get_trainer_class"), name
    assert "_trainer_class" not in libreyolo.LibreYOLO9E2E.train.__wrapped__.__code__.co_names
    for name in ("LibreRTDETR", "LibreRTDETRv2"):
        assert hasattr(getattr(libreyolo, name), "_get_trainer_class"), name
