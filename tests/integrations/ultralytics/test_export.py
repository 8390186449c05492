"""Files of a whole detector, run on other images and sizes than traced, and compared with eager."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pst
from pst.control import attention_layers
from pst.export import Difference, load, newest_opset
from pst.integrations.ultralytics import export as exports

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")
pytest.importorskip("onnxslim", reason="the export extra is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.pt of YOLO11n-PST with statistics of noise pictures, so that what it finds depends on picture and k."""
    from pst.integrations.ultralytics import YOLO

    torch.manual_seed(3)
    yolo: Any = YOLO("yolo11n-pst.yaml")
    norms = [m for m in yolo.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for m in norms:
            m.momentum = None  # averages over all batches
            m.reset_running_stats()
            m.weight.uniform_(0.8, 1.6)
            m.bias.normal_(0, 0.3)
        yolo.model.train()
        for _ in range(3):
            yolo.model(torch.rand(4, 3, 128, 128))
        for m in norms:
            m.momentum = 0.03
        for branch in yolo.model.model[-1].cv3:
            branch[-1].bias.zero_()
            branch[-1].weight.mul_(2)
        yolo.model.eval()
        x, outs = torch.rand(1, 3, 96, 96), []
        for k in (0, 8):
            pst.set_topk(yolo, k)
            outs.append(yolo.model(x)[0])
    assert (outs[0] - outs[1]).abs().max() > 0.01  # or no comparison below would see k
    pst.set_topk(yolo, 0)
    yolo.model.names = {i: f"class {i}" for i in range(80)}
    path = tmp_path_factory.mktemp("model") / "best.pt"
    yolo.save(path)
    return path


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    from ultralytics.utils import LOGGER

    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    yield
    LOGGER.setLevel(level)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of four noisy 64 px images to calibrate with."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / "images" / split / f"{i}.png")
            (root / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.3 0.3\n")
    names = ", ".join(f"{i}: 'class {i}'" for i in range(80))
    (root / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{{names}}}\n")
    return root / "data.yaml"


def rounding_only(gap: Difference) -> bool:
    """Whether float32 in another order explains it: 2⁻²⁴ of the scale on average, a random network amplifies some."""
    return gap.mean < 2e-7 * gap.scale and gap.max < 2e-4 * gap.scale


def same_classes(model: Path, done: exports.Exported) -> float:
    """Share of positions with the same best class: a random model's boxes are too alike to survive NMS in one order."""
    want, got = exports.eager(model, done), exports.runner(done, threads=1)
    with torch.no_grad():
        pairs = [(want(x), got(x)) for (x,) in exports.images(done)]
    classes = torch.cat([torch.stack([t[:, 4:].argmax(1).flatten() for t in pair]) for pair in pairs], 1)
    assert len(classes[0].unique()) > 5
    return (classes[0] == classes[1]).double().mean().item()


@pytest.mark.parametrize(
    ("options", "opset"),
    [
        pytest.param({"topk": 0}, 17, marks=pytest.mark.slow),
        ({"topk": 8, "fusion": "gate", "dynamic": True, "opset": 17}, 17),
        pytest.param({"topk": 8, "fusion": "refine", "dynamic": True, "opset": 20}, 20, marks=pytest.mark.slow),
        pytest.param({"topk": 8, "fusion": "refine", "batch": 4}, 17, marks=pytest.mark.slow),
        pytest.param(
            {"topk": 0, "dynamic": True, "batch": 4, "opset": newest_opset()}, newest_opset(), marks=pytest.mark.slow
        ),
        ({"topk": 0, "opset": newest_opset()}, newest_opset()),
    ],
    ids=str,
)
def test_onnx_agrees(checkpoint: Path, tmp_path: Path, options: dict[str, Any], opset: int) -> None:
    done = exports.export(checkpoint, "onnx", imgsz=(96, 128), out=tmp_path, **options)
    assert done.path == tmp_path / "best.onnx"
    gap = exports.verify(checkpoint, done)
    assert rounding_only(gap)
    assert same_classes(checkpoint, done) > 0.99
    model = onnx.load(done.path)
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {opset}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["pst_topk"] == str(options["topk"])
    assert metadata["pst_fusion"] == ("none" if options["topk"] == 0 else options["fusion"])
    assert metadata["stride"] == "32"  # the host's own entries stay


@pytest.mark.slow
def test_onnx_in_float16_and_int8(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    whole = exports.export(checkpoint, "onnx", imgsz=96, topk=8, out=tmp_path / "float")
    half = exports.export(checkpoint, "onnx", imgsz=96, topk=8, half=True, out=tmp_path / "half")
    assert half.path.stat().st_size < 0.6 * whole.path.stat().st_size
    gap = exports.verify(checkpoint, half)
    assert gap.max < 0.05 * gap.scale
    small = exports.export(checkpoint, "onnx", imgsz=96, topk=8, int8=True, data=pictures, out=tmp_path / "int8")
    assert small.path.stat().st_size < 0.5 * whole.path.stat().st_size
    gap = exports.verify(checkpoint, small)
    assert 0 < gap.mean < 0.02 * gap.scale
    graph = onnx.load(small.path).graph
    readers = {name: node for node in graph.node for name in node.input}
    rounded = {readers[n.output[0]].op_type for n in graph.node if n.op_type == "DequantizeLinear"}
    assert "Conv" in rounded
    assert rounded.isdisjoint({"MatMul", "Softmax", "TopK"})


@pytest.mark.parametrize(("topk", "dynamic"), [(0, False), pytest.param(8, True, marks=pytest.mark.slow)])
def test_torchscript_agrees(checkpoint: Path, tmp_path: Path, topk: int, dynamic: bool) -> None:
    done = exports.export(checkpoint, "torchscript", imgsz=96, topk=topk, dynamic=dynamic, out=tmp_path)
    gap = exports.verify(checkpoint, done)
    assert rounding_only(gap)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_pt2_agrees(checkpoint: Path, tmp_path: Path, dynamic: bool) -> None:
    done = exports.export(checkpoint, "pt2", imgsz=96, topk=8, dynamic=dynamic, out=tmp_path)
    gap = exports.verify(checkpoint, done)
    assert rounding_only(gap)
    extra = {"pst.json": ""}
    torch.export.load(done.path, extra_files=extra)
    assert json.loads(extra["pst.json"]) == {"pst_topk": 8, "pst_fusion": "gate"}


@pytest.mark.slow
def test_openvino_agrees(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    done = exports.export(checkpoint, "openvino", imgsz=96, topk=8, dynamic=True, out=tmp_path / "float")
    gap = exports.verify(checkpoint, done)
    assert rounding_only(gap)
    assert "pst_topk: 8" in (done.path / "metadata.yaml").read_text()
    pytest.importorskip("nncf", reason="NNCF is not installed")
    small = exports.export(checkpoint, "openvino", imgsz=96, topk=8, int8=True, data=pictures, out=tmp_path / "int8")
    gap = exports.verify(checkpoint, small)
    assert 0 < gap.mean < 0.02 * gap.scale
    text = next(small.path.glob("*.xml")).read_text()
    assert "FakeQuantize" in text


@pytest.mark.slow
def test_ncnn_runs_the_coarse_model(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    pytest.importorskip("pnnx", reason="pnnx is not installed")
    done = exports.export(checkpoint, "ncnn", imgsz=96, topk=0, out=tmp_path)
    gap = exports.verify(checkpoint, done)
    assert gap.max < 1e-4 * gap.scale
    with pytest.raises(ValueError, match="one image at a time, got a batch of 2"):
        load(done.path)(torch.rand(2, 3, 96, 96))


def test_k_beyond_the_coarse_map_is_said_and_nothing_is_installed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host would run pip for what it misses; an export from here never does."""
    from ultralytics.utils import checks

    seen: list[bool] = []
    original = checks.check_requirements
    monkeypatch.setattr(checks, "AUTOINSTALL", True)
    monkeypatch.setattr(
        "ultralytics.engine.exporter.check_requirements",
        lambda *a, **k: (seen.append(checks.AUTOINSTALL), original(*a, **k)),
    )
    done = exports.export(checkpoint, "onnx", imgsz=64, topk=8, out=tmp_path)
    assert seen == [False]
    assert checks.AUTOINSTALL is True
    assert done.clamped
    assert set(done.clamped.values()) == {4}  # 2×2; the other layer's map has 4×4
    gap = exports.verify(checkpoint, done)
    assert rounding_only(gap)
    with pytest.raises(ValueError, match=r"has 4 tokens, fewer than topk=8.*pass a larger imgsz"):
        exports.export(checkpoint, "onnx", imgsz=64, topk=8, dynamic=True, out=tmp_path)


def test_the_model_passed_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    from pst.integrations.ultralytics import YOLO

    yolo: Any = YOLO(checkpoint)
    pst.set_topk(yolo, 2)
    before = {name: t.clone() for name, t in yolo.model.state_dict().items()}
    done = exports.export(yolo, "torchscript", imgsz=64, topk=4, fusion="refine", out=tmp_path)
    assert (done.topk, done.fusion) == (4, "refine")
    assert {(a.topk, a.fusion) for a in attention_layers(yolo.model).values()} == {(2, "gate")}
    assert all(torch.equal(t, before[name]) for name, t in yolo.model.state_dict().items())
    assert "on_export_start" not in yolo.callbacks or len(yolo.callbacks["on_export_start"]) <= 1
    assert Path(yolo.model.pt_path).parent != tmp_path


def test_errors_name_what_was_wanted(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at none\.pt"):
        exports.export("none.pt")
    with pytest.raises(ValueError, match="ncnn cannot run topk=8"):
        exports.export(checkpoint, "ncnn", topk=8, imgsz=96, out=tmp_path)
    with pytest.raises(ValueError, match="opset is a number of ONNX's"):
        exports.export(checkpoint, "torchscript", opset=17, imgsz=96, out=tmp_path)
    with pytest.raises(ValueError, match=r"imgsz must be one side"):
        exports.export(checkpoint, "onnx", imgsz=(64, 64, 3), out=tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"NVIDIA GPU.*trtexec --onnx"):
        exports.export(checkpoint, "engine", imgsz=96, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_agreement_counts_what_either_lacks() -> None:
    raw = torch.zeros(1, 4 + 2, 3)
    raw[0, :4] = torch.tensor([[10.0, 50, 90], [10, 50, 90], [8, 8, 8], [8, 8, 8]])
    raw[0, 4:] = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.0]])
    assert exports.agreement(raw, raw) == (2, 2)
    other = raw.clone()
    other[0, 4:, 1] = torch.tensor([0.8, 0.1])  # the second box gets the other class
    assert exports.agreement(raw, other) == (1, 3)
    moved = raw.clone()
    moved[0, 0, 0] += 4  # half of its width
    assert exports.agreement(raw, moved) == (1, 3)


@pytest.mark.slow
def test_the_host_opens_what_was_written(checkpoint: Path, tmp_path: Path) -> None:
    from pst.integrations.ultralytics import YOLO

    done = exports.export(checkpoint, "onnx", imgsz=96, topk=8, out=tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    options: dict[str, Any] = {"imgsz": 96, "device": "cpu", "verbose": False, "conf": 0.25}
    opened: Any = YOLO(str(done.path), task="detect")
    got = opened.predict(image, **options)[0]
    yolo: Any = YOLO(checkpoint)
    pst.set_topk(yolo, 8)
    want = yolo.predict(image, **options)[0]
    assert len(want.boxes) > 5
    torch.testing.assert_close(got.boxes.data, want.boxes.data, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("onnx", {"topk": 8, "fusion": "refine"}),
        pytest.param("onnx", {"topk": 0}, marks=pytest.mark.slow),
        pytest.param("pt2", {"topk": 8}, marks=pytest.mark.slow),
        pytest.param("torchscript", {"topk": 8}, marks=pytest.mark.slow),
        pytest.param("openvino", {"topk": 8}, marks=pytest.mark.slow),
        pytest.param("ncnn", {"topk": 0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_bound_is_kept_in_the_file(checkpoint: Path, tmp_path: Path, format: str, options: dict[str, Any]) -> None:
    if format in ("openvino", "ncnn"):
        pytest.importorskip(format, reason="the export extra is not installed")
    done = exports.export(checkpoint, format, imgsz=128, max_tokens=16, out=tmp_path, **options)
    assert done.max_tokens == 16
    assert list(done.averaged.values()) == [64]  # 8×8; the other layer's map has 4×4
    gap = exports.verify(checkpoint, done)
    assert gap.mean < 2e-6 * gap.scale
    whole = done._replace(settings={name: s.changed({"max_tokens": None}) for name, s in done.settings.items()})
    assert exports.verify(checkpoint, whole).mean > 10 * gap.mean  # all tokens are another model
    if format == "onnx":
        assert {e.key: e.value for e in onnx.load(done.path).metadata_props}["pst_max_tokens"] == "16"


@pytest.mark.slow
def test_a_dynamic_program_averages_anew_at_every_size(checkpoint: Path, tmp_path: Path) -> None:
    done = exports.export(checkpoint, "pt2", imgsz=128, topk=4, max_tokens=9, dynamic=True, out=tmp_path)
    assert sorted(done.averaged.values()) == [16, 64]
    gap = exports.verify(checkpoint, done)  # at larger sizes too
    assert gap.mean < 2e-6 * gap.scale


def test_a_dynamic_program_is_made_where_every_map_is_averaged(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at 128×128 a coarse map has 16 tokens, no more than its max_tokens.*imgsz"):
        exports.export(checkpoint, "pt2", imgsz=128, topk=4, max_tokens=16, dynamic=True, out=tmp_path)


def test_layers_keep_settings_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    from pst.integrations.ultralytics import YOLO

    yolo = YOLO(checkpoint)
    pst.set_topk(yolo, [2, 8])
    first = next(iter(attention_layers(yolo.model).values()))
    first.settings = first.settings.changed({"max_tokens": 4})
    done = exports.export(yolo, "torchscript", imgsz=96, out=tmp_path)
    assert [(s.topk, s.max_tokens) for s in done.settings.values()] == [(2, 4), (8, None)]
    assert exports.verify(checkpoint, done).mean < 1e-5


def test_a_bound_that_ncnn_cannot_average_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pst.export.limits.is_installed", lambda name: True)
    with pytest.raises(
        ValueError, match=r"ncnn averages .* 4×4 coarse tokens of model\.\d+.* 3×3: choose a max_tokens"
    ):
        exports.export(checkpoint, "ncnn", imgsz=128, topk=0, max_tokens=9, out=tmp_path)


def test_a_size_between_strides_is_raised_and_that_is_said(checkpoint, tmp_path, caplog):
    done = exports.export(checkpoint, "torchscript", imgsz=(90, 96), topk=0, out=tmp_path)
    assert "imgsz=(90, 96) is raised to 96×96 pixels, multiples of the model's stride 32" in caplog.text
    assert done.path.is_file()
