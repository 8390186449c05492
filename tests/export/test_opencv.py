"""What docs/export.md says of OpenCV's DNN module and of TorchScript, run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pst
from battery import filled
from pst.export import to_onnx
from pst.functional.selection import RULES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


class Net(nn.Module):
    """One image in, as OpenCV's readers give it, and a PST layer inside."""

    def __init__(self, topk: int, fusion: str, **options: Any) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 3, 2, padding=1), nn.Conv2d(3, 24, 3, 4, padding=1)
        self.fuse = pst.PST(16, 24, 64, topk=topk, fusion=fusion, **options)  # type: ignore[arg-type]

    def forward(self, x):
        return self.fuse(self.fine(x), self.coarse(x))


def net(topk: int, fusion: str = "gate", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return filled(Net(topk, fusion, **options)).eval()


def by_opencv(model: nn.Module, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model and OpenCV make of another image than the file was made with."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    network = cv2.dnn.readNetFromONNX(str(to_onnx(model, (torch.rand(1, 3, 16, 24),), path / "net.onnx")))
    image = torch.rand(1, 3, 16, 24)
    network.setInput(image.numpy())
    with torch.no_grad():
        return model(image), torch.from_numpy(network.forward())


CASES: list[dict[str, Any]] = [
    {"topk": 0},
    {"topk": 8},
    {"topk": 8, "fusion": "refine"},
    {"topk": 0, "max_tokens": 6},
    {"topk": 8, "max_tokens": 6},
    {"topk": 8, "fusion": "refine", "max_tokens": 6},
    {"topk": 2, "fusion": "refine", "max_tokens": 7},  # windows of unequal sides
    {"topk": 8, "fusion": "refine", "selection": "nucleus"},  # slots that stay unused
    {"topk": 2, "fusion": "refine", "selection": "window", "max_tokens": 6},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_opencv_runs_every_fusion_with_and_without_a_bound(options, tmp_path):
    pytest.importorskip("onnx", reason="the export extra is not installed")
    want, got = by_opencv(net(**options), tmp_path)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    image = torch.ones(1, 3, 16, 24)
    assert options == {"topk": 0} or not torch.allclose(net(**options)(image), net(0)(image))
    assert "k = 0, gate and refine" in DOCUMENT


OTHER_TOKENS = {"mass", "random"}  # that OpenCV selects otherwise


@pytest.mark.parametrize("selection", sorted(set(RULES) - OTHER_TOKENS))
def test_opencv_runs_the_other_selection_rules(selection, tmp_path):
    pytest.importorskip("onnx", reason="the export extra is not installed")
    want, got = by_opencv(net(2, "refine", selection=selection), tmp_path)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert all(f'"{name}"' in DOCUMENT for name in OTHER_TOKENS)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("topk", "fusion"), [(0, "gate"), (8, "gate"), (8, "refine")])
def test_traced_models_are_the_model(topk, fusion):
    model = net(topk, fusion)
    traced: Any = torch.jit.trace(model, torch.rand(1, 3, 16, 24), check_trace=False)
    image = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(traced(image), model(image), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch.jit.script does not know this Python")
def test_script_is_refused_in_one_sentence():
    for module in (net(8), pst.PST(16, 24, 64), pst.PSTPyramid([8, 8], 64)):
        with pytest.raises(
            NotImplementedError, match=r"torch\.jit\.script cannot compile PST layers: use torch\.jit\.trace"
        ):
            torch.jit.script(module)
    assert "`torch.jit.script` is refused" in DOCUMENT
