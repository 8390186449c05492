"""Weights of a backbone from a file or a state dict: the right ones are taken, all others are refused by one error."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.models import resnet18

from messages import says
from pst.backbones import build_body
from pst.integrations.segmentation import PSTSegmenter
from pst.integrations.torchvision import PSTDetector, fcos, pst_backbone
from pst.io.checkpoints import save_safetensors
from pst.train import load_config
from pst.train.models import build, make_model
from pst.train.tasks import make_task

NAME = "test_efficientnet"
IMAGE = torch.rand(1, 3, 64, 64)


@pytest.fixture(scope="module")
def classifier() -> Any:
    torch.manual_seed(1)
    return timm.create_model(NAME).eval()


@pytest.fixture
def state(classifier) -> dict[str, torch.Tensor]:
    return dict(classifier.state_dict())


def same(body: Any, classifier: Any) -> bool:
    """Whether a body gives the classifier's own coarsest map, before its head's convolution."""
    maps = body.eval()(IMAGE)
    features = timm.create_model(NAME, features_only=True).eval()
    features.load_state_dict(classifier.state_dict(), strict=False)
    return all(torch.equal(a, b) for a, b in zip(maps.values(), features(IMAGE), strict=True))


@pytest.mark.parametrize("kind", ["safetensors", "pt", "pth", "nested", "dict", "nested dict"])
def test_a_file_or_a_state_dict_fills_the_backbone(kind, state, classifier, tmp_path):
    path: Any = tmp_path / f"w.{'pt' if kind == 'nested' else kind}"
    if kind.endswith("dict"):
        path = state if kind == "dict" else {"state_dict": state, "epoch": 3}
    elif kind == "safetensors":
        save_safetensors(state, path, {})
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "nested" else state, path)
    body = build_body(NAME, weights=path if kind != "pth" else str(path))
    assert same(body, classifier)
    assert "state_dict" not in getattr(body, "model").pretrained_cfg  # noqa: B009 - the type checker knows no such name


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", ["safetensors", "pt", "dict"])
def test_names_of_a_wrapped_network_are_taken(prefix, kind, state, classifier, tmp_path):
    wrapped: Any = {prefix + name: t for name, t in state.items()}
    path = tmp_path / f"w.{kind}"
    if kind == "safetensors":
        save_safetensors(wrapped, path, {})
    else:
        torch.save(wrapped, path)
    assert same(build_body(NAME, weights=wrapped if kind == "dict" else path), classifier)


def test_class_layers_may_be_missing_or_of_other_classes(state, classifier):
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][:7]
    assert same(build_body(NAME, weights=state), classifier)
    del state["classifier.weight"], state["classifier.bias"]
    assert same(build_body(NAME, weights=state), classifier)


def test_the_state_dict_of_a_body_is_taken_too(state):
    body = build_body(NAME, weights=state)
    again = build_body(NAME, weights=body.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(body.state_dict().values(), again.state_dict().values(), strict=True))
    assert (
        build_body(NAME, weights=body.get_submodule("model").state_dict()).state_dict().keys()
        == body.state_dict().keys()
    )


def test_what_the_state_dict_of_a_body_lacks_is_told_by_its_own_names(state):
    own = build_body(NAME, weights=state).state_dict()
    lacking = {k: t for k, t in own.items() if k != "model.bn1.weight"}
    with pytest.raises(ValueError, match=says("backbone: 1 missing, e.g. bn1.weight; give")):
        build_body(NAME, weights=lacking)
    with pytest.raises(ValueError, match=says("backbone: 1 missing, e.g. bn1.weight; give")):
        build_body(NAME, weights={k.removeprefix("model."): t for k, t in lacking.items()})
    with pytest.raises(ValueError, match=says("1 of another shape, e.g. conv_stem.weight … 3, 3, 3), not")):
        build_body(NAME, weights=own, in_channels=1)


def test_what_a_classifier_inside_another_module_lacks_is_told_by_its_own_names(state):
    inside = {f"model.{k}": t for k, t in state.items()}
    lacking = {k: t for k, t in inside.items() if k != "model.bn1.weight"}
    with pytest.raises(ValueError, match=says("backbone: 1 missing, e.g. bn1.weight; give")):
        build_body(NAME, weights=lacking)
    with pytest.raises(ValueError, match=says("backbone: 1 unknown, e.g. criterion.weight; give")):
        build_body(NAME, weights={**inside, "model.criterion.weight": torch.zeros(1)})
    for half in ({**state, **inside}, dict([*state.items()][:9]) | {k: inside[k] for k in [*inside][9:]}):
        with pytest.raises(ValueError, match=says("unknown, e.g. model.")):
            build_body(NAME, weights=half)


def test_what_the_state_dict_of_a_plain_body_lacks_is_told_by_its_own_names():
    small: Any = {"embed_dim": 32, "depth": 1, "num_heads": 2, "width": 16}
    own = build_body("vit_tiny_patch16_224", **small).state_dict()
    name = next(name for name in own if name.startswith("pyramid."))
    del own[name]
    with pytest.raises(ValueError, match=says(f"backbone: 1 missing, e.g. {name}; give")):
        build_body("vit_tiny_patch16_224", weights=own, **small)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_checkpoint_inside_itself_is_refused(key, state, classifier, tmp_path):
    around: dict[str, Any] = {}
    around[key] = around
    torch.save(around, tmp_path / "around.pt")
    for weights in (around, tmp_path / "around.pt"):
        with pytest.raises(ValueError, match=says("holds no state dict")):
            build_body(NAME, weights=weights)
    assert same(build_body(NAME, weights={"state_dict": {}, key: {"model": state}}), classifier)


def test_what_has_no_values_and_what_is_not_weights_is_named(state):
    with pytest.raises(ValueError, match=says("bn1.bias … meta")):
        build_body(NAME, weights={**state, "bn1.bias": state["bn1.bias"].to("meta")})
    with pytest.raises(ValueError, match=says("holds no state dict … model_state_dict … net")):
        build_body(NAME, weights={"net": state, "epoch": 3})


def test_a_file_of_an_old_pytorch_says_how_to_write_it_again(state, tmp_path):
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=says("old.pth … before 1.6 … cpu … weights_only=True … NEW")):
        build_body(NAME, weights=path)
    torch.save(torch.load(path, weights_only=True), path)
    build_body(NAME, weights=path)


def test_networks_whose_maps_have_other_names_are_filled_by_the_classifiers_names():
    torch.manual_seed(1)
    own = timm.create_model("test_convnext")
    body = build_body("test_convnext", weights=own.state_dict())
    want, got = (
        own.get_parameter("stages.0.blocks.0.conv_dw.weight"),
        body.get_parameter("model.stages_0.blocks.0.conv_dw.weight"),
    )
    assert torch.equal(want, got)


def test_grey_images_get_the_sum_of_the_colours(state):
    grey: Any = build_body(NAME, weights=state, in_channels=1)
    colour: Any = build_body(NAME, weights=state)
    torch.testing.assert_close(
        grey.model.conv_stem.weight, colour.model.conv_stem.weight.sum(1, keepdim=True), atol=1e-6, rtol=1e-5
    )
    own: Any = timm.create_model(NAME, in_chans=5)
    five: Any = build_body(NAME, weights=own.state_dict(), in_channels=5)
    assert torch.equal(five.model.conv_stem.weight, own.conv_stem.weight)


def test_a_torchvision_network_takes_its_own_names():
    torch.manual_seed(1)
    state = {k: t for k, t in resnet18().state_dict().items() if not k.startswith("fc.") and "tracked" not in k}
    body = build_body("resnet18", "torchvision", weights=state)
    assert torch.equal(body.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    with pytest.raises(ValueError, match=says("1 missing, e.g. conv1.weight")):
        build_body("resnet18", "torchvision", weights={k: t for k, t in state.items() if k != "conv1.weight"})


def drop(state: dict[str, Any]) -> None:
    del state["conv_stem.weight"]


def add(state: dict[str, Any]) -> None:
    state["decoder.weight"] = torch.zeros(1)


def reshape(state: dict[str, Any]) -> None:
    state["bn1.weight"] = state["bn1.weight"][:-1]


def spoil(state: dict[str, Any]) -> None:
    state["bn1.weight"] = state["bn1.weight"] * torch.nan


def whole(state: dict[str, Any]) -> None:
    state["bn1.weight"] = state["bn1.weight"].int()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (drop, "w.pt … 1 missing, e.g. conv_stem.weight"),
        (add, "w.pt … 1 unknown, e.g. decoder.weight"),
        (reshape, "w.pt … 1 of another shape, e.g. bn1.weight"),
        (spoil, "w.pt … NaN … bn1.weight"),
        (whole, "w.pt … bn1.weight is torch.int32"),
    ],
)
def test_other_weights_are_refused_in_one_sentence(change, parts, state, tmp_path):
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=says(parts)):
        build_body(NAME, weights=tmp_path / "w.pt")


def test_what_is_no_file_of_weights_is_refused(tmp_path, state):
    with pytest.raises(FileNotFoundError, match=says("none.pt")):
        build_body(NAME, weights=tmp_path / "none.pt")
    with pytest.raises(TypeError, match=says("file or a state dict … int")):
        build_body(NAME, weights=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=says("one place: weights … beside … True")):
        build_body(NAME, pretrained=True, weights=state)
    with pytest.raises(ValueError, match=says("one place: backbone_weights … beside … True")):
        PSTSegmenter(NAME, encoder_weights="imagenet", backbone_weights=state)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=says("list.pt holds no state dict")):
        build_body(NAME, weights=tmp_path / "list.pt")
    marker = tmp_path / "run"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Evil(marker)))
    with pytest.raises(ValueError, match=says("evil.pt")):
        build_body(NAME, weights=tmp_path / "evil.pt")
    torch.save({"a": _Evil(marker)}, tmp_path / "zip.pt")
    with pytest.raises(ValueError, match=says("zip.pt")):
        build_body(NAME, weights=tmp_path / "zip.pt")
    assert not marker.exists()


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


# ------------------------------------------------------------------------------------------------------------ builders


def test_the_segmenter_takes_them_and_is_saved_without(state, classifier, tmp_path):
    model: Any = PSTSegmenter(NAME, backbone_weights=state, decoder_pyramid_channels=64)
    assert same(model.encoder, classifier)
    model.save_pretrained(tmp_path)
    assert "backbone_weights" not in (tmp_path / "config.json").read_text()
    again = PSTSegmenter.from_pretrained(tmp_path)
    assert same(again.encoder, classifier)


def test_the_detectors_take_them(state, classifier, tmp_path):
    more: Any = {"backbone_options": {"out_channels": 64}}
    for model in (
        fcos(NAME, 2, backbone_weights=state, **more).backbone,
        pst_backbone(NAME, backbone_weights=state, out_channels=64),
    ):
        assert all(not p.requires_grad for p in model.get_submodule("body.model.conv_stem").parameters())
    detector: Any = PSTDetector("fcos", NAME, 2, backbone_weights=state, min_size=64, **more)
    detector.save_pretrained(tmp_path)
    again = PSTDetector.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(detector.state_dict().values(), again.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match=says("backbone_weights … finished")):
        fcos(pst_backbone(NAME, out_channels=64), 2, backbone_weights=state)


@pytest.mark.parametrize("kind", ["segment", "detect"])
def test_a_run_starts_from_them_once(kind, state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_safetensors(state, path, {})
    name = {"segment": "encoder", "detect": "backbone"}[kind]
    width = {"segment": {"decoder_pyramid_channels": 64}, "detect": {"backbone_options": {"out_channels": 64}}}[kind]
    settings = {"data": "none", name: NAME, "backbone_weights": str(path), "model_args": width}
    task = make_task(load_config(kind, overrides=settings), ("a", "b"))
    stem = {"segment": "encoder.model.", "detect": "backbone.body.model."}[kind] + "conv_stem.weight"
    assert torch.equal(build(task).state_dict()[stem], state["conv_stem.weight"])
    path.unlink()
    build(task, fresh=False)  # a run that goes on has its own
    with pytest.raises((FileNotFoundError, ValueError), match=says("w.safetensors")):
        build(task)
    assert make_model(task, pretrained=False) is not None
    with pytest.raises(ValueError, match=says("pretrained=true … backbone_weights")):
        load_config(kind, overrides={**settings, "pretrained": True})


def test_weights_that_cannot_be_fetched_are_asked_for_as_a_file(monkeypatch):
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("cannot find the files: make sure your Internet connection is on.\nand more")

    monkeypatch.setattr("timm.create_model", offline)
    wanted = (
        "the published weights of resnet18 cannot be fetched: cannot find … connection is on; without a network give a "
        "local file of them: {}=FILE"
    )
    own = says(wanted.format("backbone_weights")) + "$"
    with pytest.raises(OSError, match=own):
        PSTSegmenter("resnet18", encoder_weights="imagenet")
    with pytest.raises(OSError, match=own):
        pst_backbone("resnet18", pretrained=True)
    with pytest.raises(OSError, match=says(wanted.format("weights") + ", or --weights FILE of pst propagate")):
        build_body("resnet18", pretrained=True)
    with pytest.raises(OSError, match=r"^cannot find"):  # not of the network
        PSTSegmenter("resnet18")
