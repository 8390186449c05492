"""Conversion between the authors' format, ours and safetensors; and checkpoints that are not opened."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from torch import nn

import pst
from checkpoint_files import Call, authors_checkpoint, authors_layers, save
from messages import says
from pst.cli import main
from pst.control import attention_layers
from pst.integrations import ultralytics as adapter
from pst.integrations.ultralytics import convert_checkpoint, read_checkpoint
from pst.integrations.ultralytics.guard import protected
from pst.integrations.ultralytics.model_yaml import check_model_yaml
from pst.io import transfer
from pst.io.checkpoints import load_safetensors, save_safetensors

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped
NAMES = {0: "red", 1: "white", 2: "ünïcode"}


@pytest.fixture(scope="module")
def model() -> Any:
    """YOLO11n-PST with three classes and every number different from what a fresh model has, rounded to half."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(1)
    yolo = YOLO("yolo11n-pst.yaml")
    cfg = copy.deepcopy(yolo.model.yaml) | {"nc": 3, "ch": 3}
    cfg.pop("channels")
    model: Any = DetectionModel(copy.deepcopy(cfg), verbose=False)
    for name, t in model.state_dict().items():
        if t.is_floating_point() and "dfl" not in name:
            t.copy_((torch.rand_like(t) + 0.5 if "running_var" in name else t + 0.05 * torch.randn_like(t)).half())
    model.names, model.yaml = NAMES, cfg
    return model.eval()


@pytest.fixture(scope="module")
def authors(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model`` as the authors' fork would have saved it."""
    with pytest.MonkeyPatch.context() as patch:
        authors_layers(patch)
        return save(authors_checkpoint(model), tmp_path_factory.mktemp("authors") / "authors.pt")


def own(model: nn.Module, path: Path, **entries: Any) -> Path:
    """``model`` as Ultralytics saves it."""
    train_args = {"imgsz": 64, "task": "detect", "project": Path("/x"), "lr0": 0.1}
    return save({"model": model, "version": "8.4.0", "train_args": train_args, **entries}, path)


def assert_same_weights(state: dict[str, torch.Tensor], expected: nn.Module) -> None:
    wanted = expected.state_dict()
    assert state.keys() == wanted.keys()
    for name, t in wanted.items():
        assert state[name].dtype == (torch.float32 if t.is_floating_point() else t.dtype), name
        assert torch.equal(state[name], t.to(state[name].dtype)), name


# ---------------------------------------------------------------------------------------------------- conversion


def test_authors_checkpoint_becomes_safetensors_with_the_same_numbers(
    model: Any, authors: Path, tmp_path: Path
) -> None:
    convert_checkpoint(authors, tmp_path / "a.safetensors")
    state, metadata = load_safetensors(tmp_path / "a.safetensors")
    assert_same_weights(state, model)
    assert metadata["model"] == "yolo11n-pst.yaml"
    assert metadata["source"] == "PST authors' fork of ultralytics 8.3.105"
    assert [metadata[key] for key in ("task", "nc", "imgsz", "model_class")] == ["detect", "3", "96", "DetectionModel"]
    assert json.loads(metadata["names"]) == {"0": "red", "1": "white", "2": "ünïcode"}
    assert json.loads(metadata["train_args"]) == {"task": "detect", "imgsz": 96, "epochs": 3, "optimizer": "SGD"}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_converted_model_computes_what_the_original_does(
    model: Any, authors: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    convert_checkpoint(authors, path)
    yolo = YOLO(path)
    assert (yolo.task, yolo.names, yolo.overrides["imgsz"]) == ("detect", NAMES, 96)
    assert {layer.topk for layer in attention_layers(yolo.model).values()} == {0}
    x = torch.rand(1, 3, 64, 96)
    for k in (0, 3):
        pst.set_topk(yolo, k)
        pst.set_topk(model, k)
        with torch.no_grad():
            assert torch.equal(yolo.model(x)[0], model(x)[0])
    pst.set_topk(model, 0)


def test_formats_convert_into_each_other_and_back(authors: Path, tmp_path: Path) -> None:
    chain = [
        authors,
        *(tmp_path / name for name in ("1.safetensors", "2.pt", "3.pt", "4.safetensors", "5.safetensors")),
    ]
    converted = [convert_checkpoint(src, dst) for src, dst in itertools.pairwise(chain)]
    first, last = converted[0], read_checkpoint(chain[-1])
    assert all(torch.equal(first.state[name], t) for name, t in last.state.items())
    assert [c.source for c in converted] == [first.source] * 5
    assert last._replace(state={}, attention={}) == first._replace(state={}, attention={})
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in chain[1:]]  # nothing else is left


def test_bundled_model_is_found_by_shapes_whatever_the_file_says(model: Any, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    other.yaml |= {"yaml_file": "/home/them/yolo11s-pst.yaml"}
    with pytest.MonkeyPatch.context() as patch:
        authors_layers(patch)
        path = save(authors_checkpoint(other), tmp_path / "authors.pt")
    found = read_checkpoint(path)
    assert (found.model, found.yaml["scale"]) == ("yolo11n-pst.yaml", "n")


def test_authors_model_that_is_not_bundled_keeps_its_own_yaml(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    cfg = copy.deepcopy(YOLO("yolo11n-pst.yaml").model.yaml) | {"nc": 3, "yaml_file": "/home/them/wide.yaml"}
    cfg["head"][2][3][0] = 768
    model: Any = DetectionModel(copy.deepcopy(cfg), verbose=False)
    model.names = NAMES
    with pytest.MonkeyPatch.context() as patch:
        authors_layers(patch)
        path = save(authors_checkpoint(model), tmp_path / "authors.pt")
    convert_checkpoint(path, tmp_path / "a.safetensors")
    loaded = YOLO(tmp_path / "a.safetensors")
    assert read_checkpoint(path).model == "wide.yaml"
    assert_same_weights(loaded.model.state_dict(), model.half())


def test_own_checkpoint_keeps_k_fusion_and_numbers(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    yolo = YOLO(trained)
    pst.set_topk(yolo, 8)
    pst.set_fusion(yolo, "refine")
    next(iter(attention_layers(yolo.model).values())).topk = 4
    yolo.save(tmp_path / "k.pt")
    found = convert_checkpoint(tmp_path / "k.pt", tmp_path / "k.safetensors")
    assert found.source == f"ultralytics {ultralytics.__version__}"
    again = YOLO(tmp_path / "k.safetensors")
    layers = attention_layers(again.model).values()
    assert [(layer.topk, layer.fusion) for layer in layers] == [(4, "refine"), (8, "refine")]
    assert_same_weights(again.model.state_dict(), yolo.model)
    image = boxes_data.parent / "images" / "val" / "0.png"
    a, b = (y.predict(image, imgsz=64, conf=0.001, device="cpu", verbose=False)[0] for y in (yolo, again))
    assert len(a.boxes) > 0
    assert torch.equal(a.boxes.data, b.boxes.data)


def test_averaged_model_is_preferred(model: Any, tmp_path: Path) -> None:
    average = copy.deepcopy(model)
    for p in average.parameters():
        p.data.mul_(0.5)
    assert_same_weights(read_checkpoint(own(model, tmp_path / "a.pt", ema=average)).state, average)
    assert_same_weights(read_checkpoint(own(model, tmp_path / "b.pt", ema=None)).state, model)


def test_yaml_without_pst_rows_converts_too(tmp_path: Path) -> None:
    yolo = YOLO("yolo11n-cls.yaml")
    yolo.save(tmp_path / "cls.pt")
    found = convert_checkpoint(tmp_path / "cls.pt", tmp_path / "cls.safetensors")
    assert (found.model, found.task, found.attention) == ("yolo11n-cls.yaml", "classify", {})
    assert_same_weights(YOLO(tmp_path / "cls.safetensors").model.state_dict(), yolo.model.half())


@pytest.mark.slow
def test_safetensors_validates_and_trains_on(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    convert_checkpoint(trained, path)
    args = {"data": str(boxes_data), "imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "workers": 0}
    args |= {"project": str(tmp_path / "runs")}
    metrics = [YOLO(p).val(**args, verbose=False).results_dict for p in (path, trained)]
    assert metrics[0] == metrics[1]
    yolo = YOLO(path)
    before = {name: t.clone() for name, t in yolo.model.state_dict().items()}
    yolo.train(**args, epochs=1, lr0=0.0, warmup_epochs=0, optimizer="SGD", amp=False, verbose=False, name="again")
    after = YOLO(tmp_path / "runs" / "again" / "weights" / "last.pt").model.state_dict()
    weights = [name for name in after if name.endswith("conv.weight")]
    assert weights
    assert all(torch.equal(after[name], before[name]) for name in weights)  # lr 0: it started from the file's


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of TorchScript, which is to go
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_safetensors_exports_beside_itself(authors: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    convert_checkpoint(authors, path)
    exported = YOLO(path).export(format="torchscript", imgsz=64, device="cpu", verbose=False)
    assert Path(exported) == tmp_path / "a.torchscript"
    assert Path(exported).is_file()


# -------------------------------------------------------------------------------------------------------- errors


def test_paths_are_checked_before_anything_is_written(authors: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a \.pt or \.safetensors file, got .*a\.onnx"):
        convert_checkpoint(authors, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"expected a \.pt or \.safetensors file, got .*a\.onnx"):
        convert_checkpoint(tmp_path / "a.onnx", tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing: make it first"):
        convert_checkpoint(authors, tmp_path / "missing" / "a.pt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*missing\.pt"):
        convert_checkpoint(tmp_path / "missing.pt", tmp_path / "a.pt")
    with pytest.raises(ValueError, match="would be overwritten by its own conversion"):
        convert_checkpoint(authors, authors)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(authors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.pt"
    target.write_text("old")

    def full(_: object, path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        convert_checkpoint(authors, target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_weights_of_another_model_are_told(model: Any, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    other.model[0].conv = nn.Conv2d(3, 16, 5)
    with pytest.raises(
        ValueError, match=r"not those of yolo11n-pst\.yaml: 1 unknown, e\.g\. model\.0\.conv\.bias; 1 of"
    ):
        convert_checkpoint(own(other, tmp_path / "a.pt"), tmp_path / "b.pt")
    other = copy.deepcopy(model)
    del other.model[0].bn
    with pytest.raises(ValueError, match=r"5 missing, e\.g\. model\.0\.bn\.weight"):
        convert_checkpoint(own(other, tmp_path / "a.pt"), tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": {0: "a", 2: "b"}}, "has the class names"),
        ({"names": ["a", 1, "c"]}, "has the class names"),
        ({"names": None}, "is not a checkpoint of a trained model"),
        ({"names": {"x": "a"}}, "is not a checkpoint of a trained model"),
        ({"yaml": None}, "by no Ultralytics YAML"),
        ({"yaml": {"backbone": [], "head": 1}}, "by no Ultralytics YAML"),
        ({"yaml": {"backbone": [], "head": [[-1, 1, "Conv", [8, 1]]]}}, "has a model of no known task"),
    ],
)
def test_malformed_models_are_told(model: Any, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    other = copy.deepcopy(model)
    vars(other).update(change)
    with pytest.raises(ValueError, match=rf"a\.pt .*{reason}"):
        read_checkpoint(own(other, tmp_path / "a.pt"))


def test_other_contents_are_told(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.pt holds no Ultralytics model"):
        read_checkpoint(save(model.state_dict(), tmp_path / "a.pt"))
    with pytest.raises(ValueError, match=r"b\.pt holds a Sequential, which is not a model of Ultralytics"):
        read_checkpoint(own(nn.Sequential(), tmp_path / "b.pt"))
    save_safetensors(model.state_dict(), tmp_path / "c.safetensors", {})
    with pytest.raises(ValueError, match=r"c\.safetensors lacks metadata .* write it with pst convert"):
        read_checkpoint(tmp_path / "c.safetensors")


def test_metadata_is_as_little_trusted_as_a_pickle(authors: Path, tmp_path: Path) -> None:
    convert_checkpoint(authors, tmp_path / "a.safetensors")
    state, metadata = load_safetensors(tmp_path / "a.safetensors")
    cfg = json.loads(metadata["yaml"])
    for field, value, reason in (
        ("model_class", "torch_load", "which is not a model of Ultralytics"),
        ("yaml", json.dumps(cfg | {"activation": "print()"}), r"its activation 'print\(\)' is not of the form"),
        ("yaml", "{", "lacks metadata"),
        ("attention", '{"model.11": [-1, "gate"]}', "is not a checkpoint of a trained model"),
        ("attention", '{"model.11": [0, "both"]}', "is not a checkpoint of a trained model"),
        ("attention", '{"model.11": [0, "gate"]}', "other attention layers"),
    ):
        save_safetensors(state, tmp_path / "b.safetensors", metadata | {field: value})
        with pytest.raises(ValueError, match=reason):
            convert_checkpoint(tmp_path / "b.safetensors", tmp_path / "c.safetensors")


def test_difference_counts_and_gives_examples() -> None:
    assert transfer.difference({"a": (1,)}, {"a": (1,)}) == ""
    told = transfer.difference({"a": (1,), "b": (2,), "c": ()}, {"a": (3,), "d": ()})
    assert re.search(says("2 missing … b … 1 unknown … d … 1 of another shape … a (3,) … (1,)"), told)


# ----------------------------------------------------------------------------------- checkpoints that are not opened


def test_opening_an_authors_checkpoint_names_the_command(authors: Path) -> None:
    with pytest.raises(
        ValueError, match=r"authors\.pt is a checkpoint of the PST authors' fork .* pst convert .*authors"
    ):
        YOLO(authors)


def evil(path: Path, target: Path) -> Path:
    """A checkpoint that writes ``target`` when it is unpickled."""
    command = f'"{sys.executable}" -c "open({str(target)!r}, \'w\')"'
    return save({"model": Call(os.system, command), "train_args": {}}, path)


def test_the_malicious_checkpoint_of_these_tests_is_malicious(tmp_path: Path) -> None:
    torch.load(evil(tmp_path / "bad.pt", tmp_path / "written"), weights_only=False)
    assert (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "use",
    [
        YOLO,
        lambda path: YOLO("yolo11n-pst.yaml").load(path),
        lambda path: YOLO("yolo11n-pst.yaml").train(model=path, data="none.yaml", resume=path),
        lambda path: YOLO("rtdetr-l-pst.yaml").load(path),
        lambda path: convert_checkpoint(path, path.with_suffix(".safetensors")),
        read_checkpoint,
        adapter.sweep,
    ],
    ids=["YOLO", "load", "resume", "RTDETR", "convert", "read", "sweep"],
)
def test_malicious_checkpoint_is_not_run(use: Any, tmp_path: Path) -> None:
    path = evil(tmp_path / "bad.pt", tmp_path / "written")
    with pytest.raises(ValueError, match=rf"bad\.pt is not loaded: its pickle names {os.system.__module__}\.system"):
        use(path, "data.yaml") if use is adapter.sweep else use(path)
    assert not (tmp_path / "written").exists()


@pytest.mark.usefixtures("registered")
def test_a_malicious_checkpoint_in_the_folder_of_a_run_is_not_run(tmp_path: Path, host_warnings: list[str]) -> None:
    """The end of a training strips best.pt, which may be older than the training."""
    from ultralytics.utils.torch_utils import strip_optimizer

    with protected():
        assert strip_optimizer(evil(tmp_path / "best.pt", tmp_path / "written")) == {}
    assert not (tmp_path / "written").exists()
    assert f"{os.system.__module__}.system" in host_warnings[0]


@pytest.mark.parametrize(
    "command",
    [
        "convert {bad} out.safetensors",
        "val --model {bad} --data data.yaml",
        "yolo detect train model={bad} data=data.yaml",
        "yolo predict model={bad} source=x.png",
        "yolo detect train resume model={bad}",
    ],
)
def test_no_command_runs_a_malicious_checkpoint(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = evil(tmp_path / "bad.pt", tmp_path / "written")
    monkeypatch.chdir(tmp_path)
    before = list(sys.argv)
    try:
        assert main(command.format(bad=bad).split()) == 2
    finally:
        sys.argv[:] = before  # in place, as the verb yolo changes it
    assert not (tmp_path / "written").exists()
    assert f"{os.system.__module__}.system" in "".join(capfd.readouterr())


@pytest.mark.usefixtures("registered")
def test_yaml_inside_a_checkpoint_is_not_run(model: Any, tmp_path: Path) -> None:
    """Ultralytics evaluates ``activation`` and calls whatever a row names when it rebuilds the model for training."""
    target = tmp_path / "written"
    other = copy.deepcopy(model)
    other.yaml = other.yaml | {"activation": f"open({str(target)!r}, 'w')"}
    for read in (YOLO, read_checkpoint):
        with pytest.raises(ValueError, match=r"a\.pt is refused: its activation .*open"):
            read(own(other, tmp_path / "a.pt"))
    other.yaml = with_row(model, "attempt_download_asset")
    for read in (YOLO, read_checkpoint):
        with pytest.raises(
            ValueError, match=r"b\.pt is refused: the row .*attempt_download_asset.* of its model names no layer"
        ):
            read(own(other, tmp_path / "b.pt"))
    assert not target.exists()


def with_row(model: Any, name: Any) -> dict[str, Any]:
    """The model's YAML with one more row before its last."""
    *head, last = model.yaml["head"]
    return model.yaml | {"head": [*head, [-1, 1, name, []], last]}


@pytest.mark.parametrize("name", ["torch_load", "nn.functional", "nn.init", "nn.", "DetectionModel", "os", "none", 3])
def test_rows_that_name_no_layer_are_refused(name: Any, model: Any) -> None:
    with pytest.raises(ValueError, match=r"a\.pt is refused: the row .* of its model names no layer"):
        check_model_yaml(with_row(model, name), "a.pt")


@pytest.mark.parametrize("name", ["PST", "Conv", "nn.Identity", "torchvision.ops.DeformConv2d"])
def test_rows_that_name_layers_are_accepted(name: str, model: Any) -> None:
    check_model_yaml(with_row(model, name), "a.pt")


@pytest.mark.parametrize(
    "text", ["nn.SiLU()", "torch.nn.LeakyReLU(0.1)", "nn.ReLU(inplace=True)", "nn.Hardtanh(-1, 1.5)"]
)
def test_plain_activations_are_accepted(text: str, model: Any) -> None:
    check_model_yaml(model.yaml | {"activation": text}, "a.pt")


def layer_of(module: str, patch: pytest.MonkeyPatch) -> type[nn.Module]:
    """A layer class ``Layer`` of a module that exists while the patch does."""
    home = types.ModuleType(module)
    home.Layer = type("Layer", (nn.Identity,), {"__module__": module})  # type: ignore[attr-defined]
    patch.setitem(sys.modules, module, home)
    return home.Layer


def test_layers_of_ones_own_are_opened_by_trust_alone(model: Any, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    with pytest.MonkeyPatch.context() as patch:
        other.model[0].act = layer_of("mine", patch)()
        path = own(other, tmp_path / "a.pt")
        for read in (YOLO, read_checkpoint):
            with pytest.raises(ValueError, match=r"names mine\.Layer, .* trust=True"):
                read(path)
        assert type(YOLO(path, trust=True).model.model[0].act).__name__ == "Layer"
        assert_same_weights(read_checkpoint(path, trust=True).state, model)


def test_safe_load_opens_trained_and_converted_checkpoints(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    """ULTRALYTICS_SAFE_LOAD=1: torch.load(weights_only=True), and models built without eval."""
    converted = [tmp_path / "best.pt", tmp_path / "best.safetensors"]
    for path in converted:
        convert_checkpoint(trained, path)
    args = {"data": str(boxes_data), "imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "workers": 0}
    code = f"""
from pst.integrations.ultralytics import YOLO
from ultralytics.utils import SAFE_LOAD
assert SAFE_LOAD
results = [YOLO(path).val(**{args}).results_dict for path in {[str(p) for p in (trained, *converted)]}]
assert results[0] == results[1] == results[2], results
YOLO({str(trained)!r}).train(**{args}, epochs=1, amp=False)
"""
    env = {**os.environ, "ULTRALYTICS_SAFE_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["yolo11n-pst-neck.yaml", "yolo26n-pst-neck.yaml", "yolo11n-pst-neck-seg.yaml"])
def test_a_head_that_kept_the_width_of_pretrained_weights_is_opened(name: str, tmp_path: Path) -> None:
    """Ultralytics' load makes the class branch as wide as that of the weights: 80 for COCO's, not 64."""
    coco, mine = YOLO(name), YOLO(name)
    mine.model = type(mine.model)(copy.deepcopy(mine.model.yaml) | {"nc": 3}, verbose=False)
    before = mine.model.model[-1].cv3[0][2].in_channels
    mine.model.load(coco.model, verbose=False)
    width = mine.model.model[-1].cv3[0][2].in_channels
    if width == before:
        pytest.skip("this version of Ultralytics never keeps another width, so it writes no such checkpoint")
    mine.model.names = NAMES
    x = torch.rand(1, 3, 64, 64)
    expected = mine.model.eval()(x)
    for opened in (own(mine.model, tmp_path / "best.pt"), tmp_path / "best.safetensors"):
        if opened.suffix == ".safetensors":
            convert_checkpoint(tmp_path / "best.pt", opened)
        found = YOLO(opened).model
        assert found.model[-1].cv3[0][2].in_channels == width
        torch.testing.assert_close(_tensors(found.eval()(x)), _tensors(expected), rtol=1e-5, atol=1e-4)


def _tensors(found: Any) -> torch.Tensor:
    return found if isinstance(found, torch.Tensor) else _tensors(found[0])
