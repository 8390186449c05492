"""Exported, compiled and eager detectors agree, on images that they were not exported with."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pst.export import load, to_onnx, to_pt2
from pst.integrations.transformers import Predictions, add_pst
from tiny_transformers import HOSTS, host_model, images

# of the tracing exporter, about a slice in D-FINE's decoder that it does not fold; the file is right
pytestmark = pytest.mark.filterwarnings("ignore:Constant folding:UserWarning")

SETTINGS: list[dict[str, Any]] = [{}, {"topk": 8}, {"topk": 8, "max_tokens": 4}]
SIZE = (96, 128)


@functools.cache
def host(name: str) -> Any:
    return host_model(name)


def run(path: Path, x: Tensor) -> list[Tensor]:
    """Both outputs of an ONNX file; `pst.export.load` gives the first alone."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(out) for out in session.run(None, {"pixel_values": x.numpy()})]


def onnx(model: Predictions, path: Path, **options: Any) -> Path:
    names = {"input_names": ["pixel_values"], "output_names": model.output_names}
    return to_onnx(model, [images(size=SIZE)], path, **names, **options)


QUICK = [("d_fine", SETTINGS[-1]), ("rt_detr", SETTINGS[1])]
CASES = [
    pytest.param(name, options, marks=[pytest.mark.slow] * ((name, options) not in QUICK))
    for name in HOSTS
    for options in SETTINGS
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_onnx_runtime_computes_the_same(name, options, tmp_path):
    model = Predictions(add_pst(host(name), **options)).eval()
    path = onnx(model, tmp_path / "m.onnx")
    x = images(size=SIZE, seed=7)
    with torch.no_grad():
        for got, want in zip(run(path, x), model(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(load(path)(x), model(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", SETTINGS[:2], ids=str)
def test_one_onnx_file_serves_other_sizes_and_batches(options, tmp_path):
    model = Predictions(add_pst(host("d_fine"), **options)).eval()
    path = onnx(model, tmp_path / "m.onnx", dynamic=True)
    for batch, size in ((1, (128, 160)), (3, SIZE)):
        x = images(batch, size, seed=7)
        with torch.no_grad():
            for got, want in zip(run(path, x), model(x), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("name", HOSTS)
def test_a_program_of_torch_export_is_loaded_without_trust(name, options, tmp_path):
    model = Predictions(add_pst(host(name), **options)).eval()
    program = load(to_pt2(model, [images(size=SIZE)], tmp_path / "m.pt2"))
    x = images(size=SIZE, seed=7)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("name", HOSTS)
def test_compiled_it_computes_the_same(name, options):
    model = add_pst(host(name), **options)
    x = images(size=SIZE, seed=7)
    with torch.no_grad():
        want = model(x)
        torch._dynamo.reset()
        got = torch.compile(model, backend="aot_eager")(x)
    torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.pred_boxes, want.pred_boxes, rtol=1e-4, atol=1e-4)
