"""docs/transformers.md: its snippets run in order and its table is what `measure` counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import RTDetrImageProcessor

from pst.control import attention_layers
from pst.integrations.transformers import PUBLISHED, measure
from tiny_transformers import host_model

DOCUMENT = (Path(__file__).parents[3] / "docs/transformers.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(pst_[\w-]+)` \| ([\d.]+) M \| ([\d.]+) M \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)


@pytest.mark.filterwarnings("ignore:Constant folding:UserWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")  # the Trainer's default
def test_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = "ustc-community/dfine-small-coco"
    host_model("d_fine").save_pretrained(published)  # a folder comes before the Hub
    RTDetrImageProcessor().save_pretrained(published)
    snippets = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 5
    code = "".join(snippets).replace("640, 640", "64, 64")
    names: dict[str, Any] = {}
    exec(compile(code, "transformers.md", "exec"), names)
    assert names["out"].pred_boxes.shape == (1, 10, 4)
    assert {layer.topk for layer in attention_layers(names["same"]).values()} == {8}
    assert (tmp_path / "cells/model.safetensors").is_file()
    assert (tmp_path / "cells.onnx").is_file()


def test_table_has_a_row_for_every_model_that_is_known():
    assert [name for name, *_ in ROW.findall(DOCUMENT)] == [f"pst_{name}" for name in PUBLISHED]


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=() if r[0] == "pst_dfine-nano" else pytest.mark.slow) for r in ROW.findall(DOCUMENT)]
)
def test_table_is_what_is_counted(row):
    name, *cells = row
    fused, plain = measure(name), measure(name.removeprefix("pst_"))
    counted = [fused.parameters / 1e6, plain.parameters / 1e6, fused.gflops, plain.gflops]
    assert cells == [f"{n:.2f}" for n in counted]


def test_the_table_of_the_training_has_the_figures_of_the_committed_result():
    result = json.loads((Path(__file__).parents[3] / "lab/results/transformers-bccd.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| .* \| ([\d,]+) \| (.*) \| ([\d.]+) \| ([\d.]+) \|$", DOCUMENT, re.MULTILINE)
    wanted = []
    for row in result["rows"]:
        losses = f"{row['loss'][0]:.2f}, {row['loss'][-1]:.2f}"
        for k, found in row["val"].items():
            figures = (f"{100 * found['map']:.1f}", f"{100 * found['map50']:.1f}")
            wanted.append((f"{row['parameters']:,}", losses if k == "k0" else "the same model", *figures))
    assert rows == wanted
