"""docs/libreyolo.md: its snippets run, its table is what is counted, and what it says is in the way still is."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("libreyolo", reason="LibreYOLO is not installed")

import libreyolo
from libreyolo.models.yolo9.nn import LibreYOLO9Model
from libreyolo.models.yolo9_p2.nn import LibreYOLO9P2Model

import tiny_data
from pst.control.layers import find_attention
from pst.integrations.libreyolo import LibreYOLO9P2PST, LibreYOLO9PST
from pst.integrations.libreyolo.description import Description
from pst.integrations.libreyolo.neck import places, put_pst
from pst.profile.flops import count_flops

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


def size_of(network: Any) -> list[str]:
    gflops = count_flops(network, torch.empty(1, 3, 640, 640, device="meta")) / 1e9
    return [f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}", f"{gflops:.2f}"]


def with_pst(network: Any, configs: Any, size: str, **options: Any) -> Any:
    found, network = places(configs[size]), copy.deepcopy(network)
    put_pst(network.neck, found, Description(tuple(found), options))
    return network


ROWS = re.findall(r"^\| (YOLO9\S*) `(\w)` \| (.+) M \| (.+) M \| (.+) \| (.+) \|$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=[pytest.mark.slow] * (r[1] in "mc" or r[0] != "YOLO9")) for r in ROWS], ids=str
)
def test_table_is_what_is_counted(row):
    assert len(ROWS) == 6
    kind, size, *cells = row
    p2 = kind == "YOLO9-P2"
    network = (LibreYOLO9P2Model if p2 else LibreYOLO9Model)(config=size).eval().to("meta")
    configs = (LibreYOLO9P2PST if p2 else LibreYOLO9PST).CONFIGS
    plain, fused = size_of(network), size_of(with_pst(network, configs, size))
    assert cells == [fused[0], plain[0], fused[1], plain[1]]
    if p2:
        bounded = size_of(with_pst(network, configs, size, max_tokens=400))[1]
        assert re.search(rf"`max_tokens=400` bounds that, .*{bounded}.* GFLOPs", DOCUMENT)


def test_what_is_in_the_way_of_the_others_still_is():
    """When this fails, LibreYOLO has the hook that the document asks for."""
    for name in ("LibreYOLOX", "LibrePICODET", "LibreRTMDet", "LibreDFINE", "LibreDEIM"):
        family = getattr(libreyolo, name)
        assert not hasattr(family, "_trainer_class"), name
        assert not hasattr(family, "_get_trainer_class"), name
    assert "_trainer_class" not in libreyolo.LibreYOLO9E2E.train.__wrapped__.__code__.co_names
    for name in ("LibreRTDETR", "LibreRTDETRv2"):
        assert hasattr(getattr(libreyolo, name), "_get_trainer_class"), name
