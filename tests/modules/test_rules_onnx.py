"""ONNX files of every selection rule, run at other sizes than traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pst
from battery import filled
from tensors import assert_close

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CASES = [
    pytest.param("mean", "gate", id="mean"),
    *(
        pytest.param(rule, fusion, id=f"{rule}-{fusion}", marks=pytest.mark.slow)
        for rule, fusion in (
            ("mass", "gate"),
            ("window", "refine"),
            ("nucleus", "refine"),
            ("random", "gate"),
            ("nearest", "refine"),
            ("query", "refine"),
        )
    ),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("rule", "fusion"), CASES)
def test_a_file_runs_at_any_size(rule: str, fusion: Any, tmp_path: Path) -> None:
    """Sizes that do not divide evenly too: ONNX rounds the quotients of negative integers up, Python down."""
    layer: Any = filled(pst.PyramidSparseAttention(16, 2, topk=4, selection=rule, fusion=fusion)).eval()

    def maps(fine: tuple[int, int], coarse: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(1, 16, *fine), torch.randn(1, 16, *coarse)

    dynamic = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},) * 2
    traced = maps((13, 9), (7, 5))
    program = torch.onnx.export(layer, traced, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    program.save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    for inputs in (traced, maps((12, 10), (6, 5)), maps((11, 17), (4, 7))):
        [out] = session.run(None, dict(zip(names, (t.numpy() for t in inputs), strict=True)))
        with torch.no_grad():
            assert_close(torch.from_numpy(out), layer(*inputs), 1e-4)
