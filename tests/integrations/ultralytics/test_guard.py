"""Nothing of a file is executed by our YOLO; Ultralytics without it does what it always did."""

from __future__ import annotations

import copy
import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import ultralytics
from torch import nn

from checkpoint_files import Call, save, write_archive
from messages import says
from pickles import BUILD, EMPTY, NEWOBJ, mapping, program, shared_lists, text, use
from pst.integrations import ultralytics as adapter
from pst.integrations.ultralytics import convert_checkpoint, guard, read_checkpoint

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped
SMALL: dict[str, Any] = {"imgsz": 64, "device": "cpu", "workers": 0, "plots": False, "verbose": False}


@torch.no_grad()
def output(yolo: Any) -> torch.Tensor:
    out = yolo.model.float().eval()(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    while not isinstance(out, torch.Tensor):
        out = out[0]
    return out


# ----------------------------------------------------------------------------------------- stock files are opened


@pytest.mark.parametrize(
    "name", ["yolo11n.yaml", "yolo11n-seg.yaml", "yolo11n-pose.yaml", "yolo11n-obb.yaml", "yolo11n-cls.yaml",
             "yolo26n.yaml", "yolov8n.yaml", "yolov8s-world.yaml", "yolo11n-pst.yaml"],
)  # fmt: skip
def test_what_stock_ultralytics_saved_computes_the_same(name: str, tmp_path: Path) -> None:
    adapter.register()
    stock: Any = ultralytics.YOLO(name)
    stock.save(tmp_path / "stock.pt")
    ours = YOLO(tmp_path / "stock.pt")
    assert ours.task == stock.task
    assert torch.equal(output(ours), output(ultralytics.YOLO(tmp_path / "stock.pt")))


def test_rtdetr_is_opened_and_stays_guarded(tmp_path: Path) -> None:
    stock: Any = ultralytics.RTDETR("rtdetr-l.yaml")
    stock.save(tmp_path / "stock.pt")
    ours: Any = YOLO(tmp_path / "stock.pt")
    assert isinstance(ours, ultralytics.RTDETR)
    theirs: Any = ultralytics.RTDETR(tmp_path / "stock.pt")
    state, wanted = (cast("Any", yolo.model).state_dict() for yolo in (ours, theirs))
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    # not exactly: PyTorch 2.8 rounds by where weights lie
    torch.testing.assert_close(output(ours), output(theirs), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"bad\.pt is not loaded"):
        ours.load(save(Call(os.mkdir, str(tmp_path / "written")), tmp_path / "bad.pt"))
    assert not (tmp_path / "written").exists()


def test_fused_models_are_opened(tmp_path: Path) -> None:
    yolo = YOLO("yolo11n-pst.yaml")
    yolo.fuse()
    yolo.save(tmp_path / "fused.pt")
    expected = output(ultralytics.YOLO(tmp_path / "fused.pt"))
    torch.testing.assert_close(output(YOLO(tmp_path / "fused.pt")), expected, rtol=1e-4, atol=1e-3)


def test_numpy_in_the_results_is_read_by_both(trained: Path, tmp_path: Path) -> None:
    """After `register`, plain Ultralytics opens whatever it opened before."""
    content = torch.load(trained, weights_only=False)
    content["train_results"] = {"loss": np.arange(3.0)}
    content["best_fitness"] = np.float64(0.5)
    path = save(content, tmp_path / "numpy.pt")
    adapter.register()
    plain, ours = ultralytics.YOLO(path), YOLO(path)
    assert torch.equal(output(plain), output(ours))
    assert np.array_equal(ours.ckpt["train_results"]["loss"], np.arange(3.0))
    assert ours.ckpt["best_fitness"] == 0.5


def test_plain_ultralytics_keeps_its_own_behaviour(tmp_path: Path) -> None:
    adapter.register()
    with pytest.raises(TypeError):  # it unpickles, finds no model, and says so
        ultralytics.YOLO(save({"model": Call(os.mkdir, str(tmp_path / "written"))}, tmp_path / "any.pt"))
    assert (tmp_path / "written").is_dir()
    with pytest.raises(ValueError, match=r"any\.pt is not loaded"):
        YOLO(tmp_path / "any.pt")
    assert not guard.is_protected()


@pytest.mark.usefixtures("registered")
def test_every_module_of_the_host_has_the_wrapped_functions() -> None:
    importlib.import_module("ultralytics.utils.benchmarks")  # imports one of them by name

    adapter.unregister()
    originals = {id(getattr(home, name)): name for home, name, *_ in guard.REPLACED}
    adapter.register()
    bound = [
        f"{key}.{name}"
        for key, module in list(sys.modules.items())
        if key.startswith("ultralytics.")
        for name, value in list(vars(module).items())
        if id(value) in originals
    ]
    assert bound == []


@pytest.mark.slow
def test_training_is_resumed_from_what_was_decoded(boxes_data: Path, tmp_path: Path) -> None:
    args = {**SMALL, "data": str(boxes_data), "batch": 4, "amp": False, "epochs": 2}
    args |= {"project": str(tmp_path), "name": "run"}

    class Stop(Exception):
        pass

    def stop(trainer: Any) -> None:
        if trainer.epoch == 0:
            raise Stop

    yolo = YOLO("yolo11n-pst.yaml")
    yolo.add_callback("on_model_save", stop)
    with pytest.raises(Stop):
        yolo.train(**args)
    last = tmp_path / "run" / "weights" / "last.pt"
    resumed = YOLO(last)
    assert resumed.ckpt["optimizer"]["state"]
    resumed.train(resume=True, workers=0)
    assert resumed.trainer.start_epoch == 1
    assert YOLO(last).ckpt["epoch"] == -1


# ------------------------------------------------------------------------------------------------ hostile files


def model_program(**attributes: bytes) -> bytes:
    """A checkpoint whose model has these attributes."""
    model = use("ultralytics.nn.tasks", "DetectionModel") + EMPTY + NEWOBJ + mapping(**attributes) + BUILD
    return program(mapping(model=model, ema=b"N", train_args=b"}"))


ROWS = b"](](J\xff\xff\xff\xffK\x01" + text("Conv") + b"](K\x08K\x01eee"
HEAD = b"](](](K\x00eK\x01" + text("Detect") + b"](" + text("nc") + b"eee"
YAML = mapping(nc=b"K\x01", backbone=ROWS, head=HEAD)
NAMES = b"}K\x00" + text("a") + b"s"


def with_rows(old: bytes, new: bytes) -> bytes:
    """The YAML with something else in its first row."""
    assert old in ROWS
    return mapping(nc=b"K\x01", backbone=ROWS.replace(old, new), head=HEAD)


@pytest.mark.parametrize(
    "attributes",
    [
        {"yaml": shared_lists(60), "names": NAMES},
        {"yaml": b"}q\x00(" + text("head") + b"h\x00" + text("backbone") + b"h\x00u", "names": NAMES},
        {"yaml": YAML, "names": shared_lists(60)},
        {"yaml": YAML, "names": b"}J\xff\xff\xff\x7f" + text("a") + b"s"},
        {"yaml": YAML, "names": NAMES, "_modules": b"K\x01"},
        {"yaml": mapping(nc=b"J\xff\xff\xff\x7f", backbone=ROWS, head=HEAD), "names": NAMES},
        {"yaml": with_rows(b"K\x01X", b"J\xff\xff\xff\x7fX"), "names": NAMES},
        {"yaml": with_rows(b"K\x08", b"J\xff\xff\xff\x7f"), "names": NAMES},
        {"yaml": with_rows(text("Conv"), text("torch_load")), "names": NAMES},
        {"yaml": YAML[:-1] + text("activation") + text("print(1)") + b"u", "names": NAMES},
        {"yaml": YAML, "names": NAMES, "__class__": text("x"), "forward": use("__builtin__", "getattr")},
        {"yaml": YAML, "names": NAMES, "_modules": b"}" + text("a") + b"h\x00s"},
    ],
)
def test_hostile_models_are_one_sentence(attributes: dict[str, bytes], tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.pt", model_program(**attributes))
    for read in (YOLO, read_checkpoint, lambda p: convert_checkpoint(p, tmp_path / "out.pt")):
        with pytest.raises(ValueError, match=r"bad\.pt|malformed checkpoint"):
            read(path)
    assert not (tmp_path / "out.pt").exists()


def test_a_model_of_other_layers_than_its_yaml_is_refused(trained: Path, tmp_path: Path) -> None:
    for change, reason in (
        (lambda m: setattr(m.model[0].conv, "padding", (0, 0)), r"model\.0\.conv\.padding is \(0, 0\)"),
        (lambda m: setattr(m.model[0], "act", nn.ReLU()), r"model\.0\.act is a ReLU, by the YAML a SiLU"),
    ):
        content = torch.load(trained, weights_only=False)
        content["model"] = copy.deepcopy(content["model"])
        change(content["model"])
        path = save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=rf"other\.pt holds another model than its YAML describes \({reason}"):
            YOLO(path)
        assert YOLO(path, trust=True).trust


def test_the_yaml_of_a_model_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "nc: 1\nactivation: __import__('os').mkdir('written')\nbackbone: [[-1, 1, Conv, [8, 1]]]\n"
    (tmp_path / "evil.yaml").write_text(text + "head: [[[0], 1, Detect, [nc]]]\n")
    with pytest.raises(ValueError, match=r"evil\.yaml is refused: its activation"):
        YOLO("evil.yaml")
    assert not (tmp_path / "written").exists()


# ---------------------------------------------------------------------------------------------------- data sets


@pytest.fixture
def data(boxes_data: Path, tmp_path: Path) -> Path:
    """A copy of the data set."""
    shutil.copytree(boxes_data.parent, tmp_path / "data", ignore=shutil.ignore_patterns("*.cache"))
    target = tmp_path / "data" / "data.yaml"
    target.write_text(target.read_text().replace(str(boxes_data.parent), str(tmp_path / "data")))
    return target


@pytest.mark.parametrize("kind", ["python", "bash"])
def test_download_is_not_run(kind: str, trained: Path, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data.parent / "images" / "val")
    target = tmp_path / "written"
    script = f"open({str(target)!r}, 'w')" if kind == "python" else f"bash -c 'touch {target}'"
    data.write_text(data.read_text() + f"download: |\n  {script}\n")
    for name in ("val", "train"):
        with pytest.raises(FileNotFoundError, match=r"the download: of .*data\.yaml is not run"):
            getattr(YOLO(trained), name)(data=str(data), **SMALL)
    assert not target.exists()


def test_cached_labels_are_neither_read_nor_written(trained: Path, data: Path, tmp_path: Path) -> None:
    expected = YOLO(trained).val(data=str(data), **SMALL, project=str(tmp_path)).results_dict
    cache = data.parent / "labels" / "val.cache"
    assert not cache.exists()
    with cache.open("wb") as file:
        np.save(file, np.array({"x": Call(os.mkdir, str(tmp_path / "written"))}, dtype=object), allow_pickle=True)
    before = cache.read_bytes()
    assert YOLO(trained).val(data=str(data), **SMALL, project=str(tmp_path)).results_dict == expected
    assert cache.read_bytes() == before
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("content", ["train: x\nval: y\n", "names: 3\ntrain: x\nval: y\n", "val: [\n", "just text\n"])
def test_malformed_data_sets_are_one_sentence(content: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(content)
    with pytest.raises((ValueError, OSError)):
        YOLO(trained).val(data=str(tmp_path / "d.yaml"), **SMALL)


def test_exported_programs_need_trust(tmp_path: Path) -> None:
    (tmp_path / "a.torchscript").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"a\.torchscript is not loaded: .* --trust"):
        YOLO(tmp_path / "a.torchscript", task="detect").predict(np.zeros((64, 64, 3), np.uint8), imgsz=64)


def test_a_file_that_is_no_model_asks_for_no_trust(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is no model: expected a \.pt or .*") as caught:
        YOLO(tmp_path / "notes.txt", task="detect").predict(np.zeros((64, 64, 3), np.uint8), **SMALL)
    assert "trust" not in str(caught.value)
    with pytest.raises(ValueError, match=r"grpc://host/model is not loaded: .* --trust"):  # what a server runs
        YOLO("grpc://host/model", task="detect").predict(np.zeros((64, 64, 3), np.uint8), **SMALL)


@pytest.mark.parametrize(
    ("name", "inside", "said"),
    [
        ("empty", [], "empty is a folder: expected a .pt or .safetensors file of Ultralytics"),
        ("run", ["weights/best.pt"], "run is a folder: … give … best.pt"),
        ("ours", ["best.safetensors"], "ours is of pst train, not of Ultralytics"),
        ("x_saved_model", ["saved_model.pb"], "x_saved_model is not loaded: … pass --trust"),
    ],
)
def test_a_folder_is_called_one_unless_it_is_an_export(name: str, inside: list[str], said: str, tmp_path: Path) -> None:
    for each in inside:
        (tmp_path / name / each).parent.mkdir(parents=True)
        (tmp_path / name / each).touch()
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=says(said)):
        YOLO(tmp_path / name, task="detect").predict(np.zeros((64, 64, 3), np.uint8), **SMALL)
