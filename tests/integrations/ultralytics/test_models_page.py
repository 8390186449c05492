"""docs/models.md: its snippet runs, and every model that it names is one that `YOLO` builds."""

from __future__ import annotations

import re
from pathlib import Path

from pst.control import attention_layers
from pst.integrations.ultralytics import measure, model_zoo

DOCUMENT = (Path(__file__).parents[3] / "docs/models.md").read_text(encoding="utf-8")


def test_the_snippet_builds_a_model_with_pst():
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "models.md", "exec"), names)
    assert attention_layers(names["model"].model)  # pyright: ignore[reportAttributeAccessIssue] a YOLO


def test_every_model_is_one_that_is_built_by_name():
    known = {model.name.removesuffix(".yaml") for model in model_zoo()}
    named = set(re.findall(r"`([\w-]+)\.yaml`", DOCUMENT)) | set(
        re.findall(r"^\| `([\w-]+-pst[\w-]*)`", DOCUMENT, re.MULTILINE)
    )
    named -= {"data"}
    assert len(named) >= 14
    assert named <= known


def test_the_table_of_costs_is_what_is_counted():
    rows = re.findall(r"^\| `(yolo\w+-pst-neck)`.*? \| ([\d.]+) M \| ([\d.]+) \|", DOCUMENT, re.MULTILINE)
    assert len(rows) >= 3
    for name, parameters, gflops in rows:
        found = measure(f"{name}.yaml")
        assert (f"{found.parameters / 1e6:.3f}", f"{found.gflops:.2f}") == (parameters, gflops)
