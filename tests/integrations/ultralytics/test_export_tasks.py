"""Files of every task that Ultralytics has, compared with the model in the form that the file has."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import pst
from messages import says
from pst.export.onnx_file import quiet_exporter
from pst.integrations.ultralytics import YOLO
from pst.integrations.ultralytics import export as exports
from pst.integrations.ultralytics.export_check import nearest_queries
from pst.integrations.ultralytics.export_write import raw_model
from pst.integrations.ultralytics.zoo import model_zoo

if find_spec("onnx") is None or find_spec("onnxruntime") is None or find_spec("onnxslim") is None:
    pytest.skip("the export extra is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    from ultralytics.utils import LOGGER

    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    yield
    LOGGER.setLevel(level)


def build(name: str) -> Any:
    """A random model whose maps differ from pixel to pixel."""
    if not any(model.name == name for model in model_zoo()):
        pytest.skip(f"this Ultralytics has no {name}")
    torch.manual_seed(0)
    yolo: Any = YOLO(name)
    for m in yolo.model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            assert m.running_mean is not None
            m.running_mean.normal_(0, 0.1)
            m.weight.data.uniform_(1, 2)
    for weights in getattr(yolo.model.model[-1], "classifier", [torch.nn.Identity()])[-1].parameters():
        weights.data.normal_()
    return yolo


def both(yolo: Any, done: exports.Exported) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(1, done.channels, *done.size)
    with torch.no_grad():
        return exports.eager(yolo, done)(image), exports.runner(done, threads=1)(image)


@pytest.mark.parametrize(
    ("format", "dynamic"),
    [("onnx", True), ("torchscript", False), pytest.param("openvino", True, marks=pytest.mark.slow)],
)
def test_a_semantic_file_holds_classes_or_scores(format: str, dynamic: bool, tmp_path: Path) -> None:
    if format == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    yolo = build("yolo26n-pst-neck-sem.yaml")
    done = exports.export(yolo, format, imgsz=64, topk=2, dynamic=dynamic, out=tmp_path)
    assert done.task == "semantic"
    assert done.class_map == (format != "torchscript")
    want, got = both(yolo, done)
    gap = exports.verify(yolo, done)
    if done.class_map:
        assert want.shape == got.shape == (1, 64, 64)
        assert len(want.unique()) > 1
        assert gap.mean < 0.001  # a pixel between two classes may fall to either
        yolo.model.model[-1].classifier[-1].bias.data[int(want.mode().values[0, 0])] -= 1000
        assert exports.verify(yolo, done).mean > 0.1  # another model is seen to be one
    else:
        assert want.shape == got.shape == (1, yolo.model.yaml["nc"], 64, 64)
        assert gap.mean < 1e-6 * gap.scale


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_a_depth_file_holds_depths_at_the_images_size(format: str, tmp_path: Path) -> None:
    yolo = build("yolo26n-pst-neck-depth.yaml")
    done = exports.export(yolo, format, imgsz=64, topk=2, dynamic=True, out=tmp_path)
    want, got = both(yolo, done)
    assert want.shape == got.shape == (1, 1, 64, 64)
    assert want.std() > 0
    gap = exports.verify(yolo, done)
    assert gap.max < 1e-4 * gap.scale


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Constant folding:UserWarning", "ignore:Exporting aten..index:UserWarning"
)  # RT-DETR
@pytest.mark.parametrize(
    "name", [f"yolo26n-pst-neck{task}.yaml" for task in ("", "-seg", "-pose", "-obb", "-cls")] + ["rtdetr-l-pst.yaml"]
)
def test_files_of_the_other_tasks(name: str, tmp_path: Path) -> None:
    yolo = build(name)
    done = exports.export(yolo, "onnx", imgsz=64, topk=2, out=tmp_path)
    gap = exports.verify(yolo, done)
    assert gap.mean < 1e-5 * gap.scale


@pytest.mark.parametrize("topk", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_opencv_runs_a_detector(topk: int, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    yolo = build("yolo11n-pst.yaml")
    done = exports.export(yolo, "onnx", imgsz=64, topk=topk, out=tmp_path)
    image = torch.rand(1, 3, 64, 64)
    network = cv2.dnn.readNetFromONNX(str(done.path))
    network.setInput(image.numpy())
    want = exports.eager(yolo, done)(image).detach()
    torch.testing.assert_close(torch.from_numpy(network.forward()), want, rtol=1e-3, atol=1e-3)


def test_queries_are_compared_with_their_nearest() -> None:
    want = torch.tensor([[[1.0, 0], [5, 5], [9, 1]]])
    assert torch.equal(nearest_queries(want, want[:, [2, 0, 1]]), want)
    twice = want[:, [0, 0, 2]]  # one query is missing: nothing hides that
    assert not torch.equal(nearest_queries(want, twice), want)


def test_the_host_selects_boxes_in_the_file(tmp_path: Path) -> None:
    """``nms=True`` is Ultralytics' own option; PST's layers are in the way of nothing."""
    import onnxruntime

    yolo = build("yolo11n-pst.yaml")
    pst.set_topk(yolo, 2)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        boxes, scores = raw_model(yolo.model, "onnx")(image)[0][0].split((4, 80))
    best = scores.amax(0).argmax()
    x, y, width, height = boxes[:, best].tolist()
    yolo.model.pt_path = str(tmp_path / "model.pt")
    with quiet_exporter():
        path = yolo.export(format="onnx", imgsz=64, nms=True, conf=1e-9, max_det=5, opset=17, verbose=False)
    session: Any = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"images": image.numpy()})
    wanted = [x - width / 2, y - height / 2, x + width / 2, y + height / 2, float(scores[:, best].max())]
    assert found.shape == (1, 5, 6)
    assert found[0, 0, :5].tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert found[0, 0, 5] == scores[:, best].argmax()


def test_what_the_converter_cannot_do_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo = build("yolo11n-pst.yaml")

    def fails(*_: Any, **__: Any) -> None:
        raise KeyError("graph:\n %1 = add(%2)\n %2 = mul(%3)")

    monkeypatch.setattr("ultralytics.engine.exporter.Exporter.__call__", fails)
    with pytest.raises(
        ValueError, match=r"onnx could not be written of yolo11n-pst\.yaml \(detect\).*KeyError"
    ) as error:
        exports.export(yolo, "onnx", imgsz=64, out=tmp_path)
    assert "\n" not in str(error.value)


def test_an_exported_file_is_no_model_to_export(tmp_path: Path) -> None:
    (tmp_path / "best.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"best\.onnx is not a checkpoint but a file of an export"):
        exports.export(tmp_path / "best.onnx", "onnx", imgsz=64, out=tmp_path)


def test_a_model_without_pst_is_named(tmp_path: Path) -> None:
    plain: Any = YOLO("yolo11n.yaml")
    with pytest.raises(ValueError, match="holds no PST layer"):
        exports.export(plain, "onnx", imgsz=64, out=tmp_path)
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "plain.pt"
    plain.save(file)
    with pytest.raises(ValueError, match=says(f"{file} holds no PST layer … pst yolo export with model={file}")):
        exports.export(file, "onnx", imgsz=64, out=tmp_path)
