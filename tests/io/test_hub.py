"""Saving to and loading from a folder, pushing to a stand-in for the hub, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants, hub_mixin
from safetensors.torch import load_file
from torch import Tensor, nn

import pst
from pst.control import attention_layers
from pst.functional.selection import Nucleus, Window
from pst.integrations.segmentation import PSTSegmenter
from pst.integrations.timm import PSTClassifier, PSTFeatures
from pst.integrations.torchvision import PSTDetector
from pst.io.hub import PSTHubMixin


class Net(nn.Module, PSTHubMixin):
    """Two PST layers and an argument that says where weights come from."""

    def __init__(self, width: int = 64, *, topk: int = 0, pretrained: bool = False) -> None:
        super().__init__()
        assert not pretrained
        self.pyramid = pst.PSTPyramid([4, 4, 4], width, topk=topk, share="attention")

    def forward(self, x: Tensor) -> Tensor:
        return self.pyramid([x, x, x])[0]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 4, 9, 8)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_round_trip_keeps_weights_arguments_and_what_was_set_later(tmp_path, x):
    model = Net(128, topk=2).eval()
    first, second = attention_layers(model).values()
    first.topk, second.topk, second.fusion, second.selection = 5, 3, "refine", Window(grid=2)
    model.save_pretrained(tmp_path)
    loaded = Net.from_pretrained(tmp_path)
    assert not loaded.training
    assert [layer.topk for layer in attention_layers(loaded).values()] == [5, 3]
    assert [layer.fusion for layer in attention_layers(loaded).values()] == ["gate", "refine"]
    assert torch.equal(loaded(x), model(x))
    assert (tmp_path / "model.safetensors").is_file()
    assert read(tmp_path)["width"] == 128
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert read(again) == read(tmp_path)
    a, b = load_file(again / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_given_anew_replaces_what_was_set(tmp_path):
    model = Net(topk=2)
    pst.set_options(model, topk=5, fusion="refine")
    model.save_pretrained(tmp_path)
    assert {(a.topk, a.fusion) for a in attention_layers(Net.from_pretrained(tmp_path, topk=3)).values()} == {
        (3, "refine")
    }
    assert {a.topk for a in attention_layers(Net.from_pretrained(tmp_path, topk=2)).values()} == {2}  # as it was built
    segmenter = PSTSegmenter("test_resnet", None, classes=2, decoder_pyramid_channels=64)
    segmenter.save_pretrained(tmp_path / "segmenter")
    found = PSTSegmenter.from_pretrained(tmp_path / "segmenter", neck_options={"max_tokens": 16})
    assert {a.settings.max_tokens for a in attention_layers(found).values()} == {16}


def test_loading_asks_nobody_for_pretrained_weights(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(PSTClassifier, "__init__", remember(PSTClassifier.__init__, asked))
    model = PSTClassifier("test_resnet", num_classes=3, width=64, cache_dir=str(tmp_path / "cache"))
    model.save_pretrained(tmp_path / "model")
    assert not {"pretrained", "cache_dir"} & set(read(tmp_path / "model"))
    PSTClassifier.from_pretrained(tmp_path / "model")
    assert [options.get("pretrained", False) for options in asked] == [False, False]


def remember(init: Any, asked: list[dict[str, Any]]) -> Any:
    def wrapped(self, *args, **options):
        asked.append(options)
        init(self, *args, **options)

    return wrapped


def test_a_classifier_comes_back_as_it_is_now(tmp_path):
    model = PSTClassifier("test_resnet", num_classes=10, drop_path_rate=0.1).eval()
    model.reset_classifier(4, "max")
    pst.set_topk(model, 2)
    model.save_pretrained(tmp_path)
    loaded, image = PSTClassifier.from_pretrained(tmp_path), torch.randn(1, 3, 64, 64)
    assert (loaded.num_classes, loaded.head.global_pool.pool_type) == (4, "max")
    assert torch.equal(loaded(image), model(image))
    assert read(tmp_path)["drop_path_rate"] == 0.1  # options of the backbone too


def test_features_and_the_control_come_back(tmp_path):
    image = torch.randn(1, 3, 64, 64)
    features = PSTFeatures("test_resnet", out_indices=(2, 3, 4), out_channels=64, topk=(2, 1)).eval()
    features.save_pretrained(tmp_path / "features")
    for a, b in zip(PSTFeatures.from_pretrained(tmp_path / "features")(image), features(image), strict=True):
        assert torch.equal(a, b)
    control = PSTClassifier("test_resnet", num_classes=2, neck="conv").eval()  # holds no PST layer
    control.save_pretrained(tmp_path / "control")
    assert torch.equal(PSTClassifier.from_pretrained(tmp_path / "control")(image), control(image))


def test_model_card_names_the_class_and_its_settings(tmp_path):
    model = PSTClassifier("test_resnet", num_classes=7)
    model.save_pretrained(tmp_path, model_card_kwargs={"title": "Seven flowers", "description": "Trained on flowers."})
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "pst"
    assert data["pipeline_tag"] == "image-classification"
    assert {"timm", "pyramid-sparse-transformer"} <= set(data["tags"])
    parameters = f"{sum(p.numel() for p in model.parameters()):,}"
    for text in ("# Seven flowers", "Trained on flowers.", "| num_classes | `7` |", parameters, "PSTClassifier.from_"):
        assert text in card.text


def test_push_sends_the_folder(monkeypatch):
    sent = {}

    class Api:
        def __init__(self, token=None):
            sent["token"] = token

        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **options):
            sent.update(options, names=sorted(p.name for p in folder_path.iterdir()))
            sent["card"] = (folder_path / "README.md").read_text()
            return "https://example.org/commit"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    url = Net().push_to_hub("someone/net", token="t", commit_message="Net")
    assert url == "https://example.org/commit"
    assert sent["names"] == ["README.md", "config.json", "model.safetensors"]
    assert (sent["token"], sent["repo_id"], sent["commit_message"]) == ("t", "someone/net", "Net")
    assert 'Net.from_pretrained("someone/net")' in sent["card"]


def test_weights_that_do_not_fit_are_refused(tmp_path):
    Net(64).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors holds other weights than those of this Net: .*shape"):
        Net.from_pretrained(tmp_path, width=128)


CLASSIFIER = {"backbone": "test_resnet", "width": 64, "head_width": 32}
DETECTOR = {"backbone_options": {"out_channels": 64, "returned_layers": (2, 3, 4)}, "min_size": 64, "max_size": 64}
CLASSED = {
    "classifier": (PSTClassifier, CLASSIFIER, "num_classes", {"head.fc.weight", "head.fc.bias"}),
    "segmenter": (
        PSTSegmenter,
        {"encoder_name": "test_resnet", "decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32},
        "classes",
        {"segmentation_head.weight", "segmentation_head.bias"},
    ),
    **{
        kind: (PSTDetector, {"kind": kind, "backbone": "test_resnet", **DETECTOR}, "num_classes", fresh)
        for kind, fresh in {
            "retinanet": {f"model.head.classification_head.cls_logits.{n}" for n in ("weight", "bias")},
            "mask_rcnn": {
                f"model.roi_heads.{layer}.{n}"
                for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
                for n in ("weight", "bias")
            },
        }.items()
    },
}


@pytest.mark.parametrize(("kind", "options", "argument", "fresh"), CLASSED.values(), ids=CLASSED)
def test_another_number_of_classes_leaves_the_class_layers_fresh(tmp_path, caplog, kind, options, argument, fresh):
    model = kind(**options, **{argument: 3})
    pst.set_topk(model, 2)
    model.save_pretrained(tmp_path)
    other = kind.from_pretrained(tmp_path, **{argument: 5})
    old, new = model.state_dict(), other.state_dict()
    assert {name for name in new if new[name].shape != old[name].shape} == fresh
    assert all(torch.equal(new[name], old[name]) for name in new if name not in fresh)
    assert {layer.topk for layer in attention_layers(other).values()} == {2}
    assert all(name in caplog.text for name in fresh)


def test_a_classifier_comes_without_its_last_layer(tmp_path):
    model = PSTClassifier(**CLASSIFIER, num_classes=3).eval()
    model.save_pretrained(tmp_path)
    headless = PSTClassifier.from_pretrained(tmp_path, num_classes=0)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(headless(x), model.forward_head(model.forward_features(x), pre_logits=True))
    with pytest.raises(ValueError, match="of another shape"):
        PSTClassifier.from_pretrained(tmp_path, num_classes=4, head_width=64)  # no class layer


def test_a_folder_without_configuration_is_refused(tmp_path):
    Net(64).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        Net.from_pretrained(tmp_path)


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"no folder nowhere, and the Hub gave no model of that name: \S"):
        Net.from_pretrained("nowhere")


def test_an_argument_that_json_cannot_describe_is_refused(tmp_path):
    class Wrapped(Net):
        def __init__(self, norm: Any, **options: Any) -> None:
            super().__init__(**options)

    for model in (Wrapped(nn.Identity), Wrapped(norm=nn.Identity)):
        with pytest.raises(TypeError, match=r"arguments \['norm'\] of this model"):
            model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_rule_with_settings_comes_back(tmp_path):
    model = PSTClassifier("test_resnet", num_classes=2, topk=2, selection=Window(grid=3))
    copied = copy.deepcopy(model)
    copied.save_pretrained(tmp_path)
    (layer,) = attention_layers(PSTClassifier.from_pretrained(tmp_path)).values()
    assert layer.selection == Window(grid=3)


def test_a_rule_of_your_own_is_refused_before_anything_is_written(tmp_path):
    class Own:
        def select(self, *args, **options):
            return Nucleus().select(*args, **options)

    model = Net()
    next(iter(attention_layers(model).values())).selection = Own()
    with pytest.raises(TypeError, match="JSON cannot describe"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_detector_comes_back(tmp_path, frozen):
    options = {"min_size": 64, "max_size": 64, "score_thresh": 0.0}
    settings: dict[str, Any] = {"backbone_options": {"frozen_batchnorm": frozen}, "topk": 2, **options}
    model = PSTDetector("retinanet", "test_resnet", 3, **settings).eval()
    model.save_pretrained(tmp_path)
    image = torch.rand(3, 64, 64)
    (found,), (expected,) = PSTDetector.from_pretrained(tmp_path)([image]), model([image])
    assert len(expected["scores"]) > 0
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read(tmp_path)["backbone_options"] == {"frozen_batchnorm": frozen}
    with pytest.raises(ValueError, match="kind must be one of"):
        PSTDetector("yolo", "test_resnet", 3)


def test_a_segmenter_comes_back(tmp_path):
    model = PSTSegmenter("test_resnet", classes=3, decoder_pyramid_channels=64, topk=2, activation="softmax").eval()
    model.save_pretrained(tmp_path)
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(PSTSegmenter.from_pretrained(tmp_path)(image), model(image))
    assert "encoder_weights" not in read(tmp_path)
    with pytest.raises(TypeError, match=r"arguments \['activation'\]"):
        PSTSegmenter("test_resnet", activation=nn.Sigmoid).save_pretrained(tmp_path / "other")


def test_a_fused_model_is_refused_and_nothing_written(tmp_path):
    model = pst.fuse(Net().eval())
    with pytest.raises(ValueError, match=r"is fused .*pyramid.top.* save it before pst.fuse"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
