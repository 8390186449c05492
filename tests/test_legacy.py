"""Files that version 0.1.0 wrote still load, and give what they gave then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pst

LEGACY = Path(__file__).parent / "legacy"  # written by 0.1.0; expected.safetensors holds the outputs of that version


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(LEGACY / "expected.safetensors")


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_pickled_layer(expected):
    """With statistics of its own for the fine map, and the hook of `stochastic_topk`."""
    layer = torch.load(LEGACY / "layer.pt", weights_only=False)  # a file of our own, in the repository
    assert isinstance(layer, pst.PST)
    with torch.no_grad():
        close(layer(expected["layer.x"], expected["layer.upper"]), expected["layer.out"])


def test_a_checkpoint_of_ultralytics_trainer(expected):
    ultralytics = pytest.importorskip("pst.integrations.ultralytics")
    model = ultralytics.YOLO(LEGACY / "yolo.pt").model.float().eval()
    assert [(m.topk, m.fusion) for m in pst.control.attention_layers(model).values()] == [(2, "refine")]
    with torch.no_grad():
        close(model(expected["yolo.image"])[0], expected["yolo.out"])


@pytest.mark.parametrize("k", [0, 2])
def test_a_run_of_the_trainer(k, expected):
    train = pytest.importorskip("pst.train")
    task, model = train.load_trained(LEGACY / "run")
    assert task.classes == ("a", "b")
    pst.set_topk(model, k)
    with torch.no_grad():
        close(model(task.inputs(expected["run.images"])), expected[f"run.out{k}"])


def test_settings_of_a_run():
    train = pytest.importorskip("pst.train")
    config = train.load_config("classify", LEGACY / "run" / "config.yaml")
    assert (config.model, config.imgsz, config.batch, config.topk) == ("pst_test_resnet", 32, 4, 0)
