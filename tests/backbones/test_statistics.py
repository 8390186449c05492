"""Mean and standard deviation: those that the network was trained with, wherever images are normalised."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image

from messages import says
from pst.backbones import build_body
from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, per_channel
from pst.backbones.timm import statistics_of
from pst.explore.saved import SavedNetwork
from pst.integrations.segmentation import PSTSegmenter
from pst.integrations.torchvision import PSTDetector, fcos, pst_backbone

HALF = (0.5, 0.5, 0.5)
SMALL: dict[str, Any] = {"out_channels": 64}


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", IMAGENET_MEAN, IMAGENET_STD),
        ("tf_efficientnet_lite0", HALF, HALF),
        ("vit_tiny_patch16_224", HALF, HALF),
        ("vit_small_patch16_224.dino", IMAGENET_MEAN, IMAGENET_STD),  # another tag of a network whose default has HALF
    ],
)
def test_timms_are_those_of_the_weights(name, mean, std):
    published: Any = timm.get_pretrained_cfg(name)
    assert published.mean == mean
    body: Any = build_body(name)
    assert (body.mean, body.std) == (mean, std)
    grey: Any = build_body(name, in_channels=1)
    assert (grey.mean, grey.std) == (per_channel(mean, 1), per_channel(std, 1))


@pytest.mark.parametrize(
    ("name", "tag", "mean", "std"),
    [
        ("resnet18", False, IMAGENET_MEAN, IMAGENET_STD),
        ("efficientnet_v2_s", False, IMAGENET_MEAN, IMAGENET_STD),
        ("efficientnet_v2_l", False, HALF, HALF),
        ("vgg16", "IMAGENET1K_FEATURES", (0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
        ("vgg16", True, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_torchvisions_are_those_of_the_weights(name, tag, mean, std, monkeypatch):
    network = torchvision.models.get_model(name)
    monkeypatch.setattr("pst.backbones.torchvision.get_model", lambda *_, **__: network)  # nothing is fetched
    body: Any = build_body(name, "torchvision", pretrained=tag)
    assert (body.mean, body.std) == (pytest.approx(mean), pytest.approx(std))
    four: Any = build_body(name, "torchvision", pretrained=tag, in_channels=4)
    assert (four.mean, four.std) == (per_channel(body.mean, 4), per_channel(body.std, 4))


def test_a_detector_takes_its_backbones_unless_told_otherwise():
    assert fcos("tf_efficientnet_lite0", 3, backbone_options=SMALL).transform.image_mean == [*HALF]
    assert fcos("resnet18", 3, backbone_options=SMALL).transform.image_std == [*IMAGENET_STD]
    told = fcos("resnet18", 3, backbone_options=SMALL, image_mean=[0.1, 0.2, 0.3])
    assert (told.transform.image_mean, told.transform.image_std) == ([0.1, 0.2, 0.3], [*IMAGENET_STD])


@pytest.mark.parametrize("channels", [3, 4])
def test_a_saved_detector_keeps_them_and_one_of_an_earlier_version_has_imagenets(channels, tmp_path):
    options = {"backbone_options": {**SMALL, "in_channels": channels}, "min_size": 64, "max_size": 64}
    PSTDetector("fcos", "test_resnet", 3, **options).save_pretrained(tmp_path)
    assert PSTDetector.from_pretrained(tmp_path).model.transform.image_mean == [0.5] * channels
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert config.pop("image_mean") == config.pop("image_std") == [0.5] * channels
    file.write_text(json.dumps(config))
    told = PSTDetector.from_pretrained(tmp_path, image_mean=[0.1] * channels)
    assert told.model.transform.image_mean == [0.1] * channels
    assert told.model.transform.image_std == [*per_channel(IMAGENET_STD, channels)]
    earlier = PSTDetector.from_pretrained(tmp_path)
    assert earlier.model.transform.image_mean == [*per_channel(IMAGENET_MEAN, channels)]
    assert earlier.model.transform.image_std == [*per_channel(IMAGENET_STD, channels)]
    earlier.save_pretrained(tmp_path / "again")
    again = PSTDetector.from_pretrained(tmp_path / "again")
    assert again.model.transform.image_mean == earlier.model.transform.image_mean


def test_the_explorer_shows_a_segmenter_images_as_its_encoder_was_trained(tmp_path):
    model = PSTSegmenter("test_resnet", classes=2, decoder_pyramid_channels=64)
    model.save_pretrained(tmp_path)
    network = SavedNetwork(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    seen = network.see(Image.new("RGB", (64, 64), "white"))
    torch.testing.assert_close(network.forward(seen), model.eval()(seen.pixels[None].float() / 127.5 - 1).detach())


def test_a_saved_segmenter_keeps_those_of_the_weights_it_began_with(tmp_path):
    weights = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    options: dict[str, Any] = {"pretrained_cfg_overlay": {"state_dict": weights}}
    tagged = PSTSegmenter("vit_small_patch16_224", "dino", decoder_pyramid_channels=64, encoder_options=options)
    assert tagged.encoder.mean == IMAGENET_MEAN
    assert tagged.hub_config()["encoder_options"]["mean"] == [*IMAGENET_MEAN]
    own = PSTSegmenter("test_resnet", encoder_options={"mean": [0.1, 0.2, 0.3]}, decoder_pyramid_channels=64)
    own.save_pretrained(tmp_path)
    again = PSTSegmenter.from_pretrained(tmp_path)
    assert (again.encoder.mean, again.encoder.std) == ((0.1, 0.2, 0.3), HALF)


def test_those_that_are_given_are_checked():
    with pytest.raises(ValueError, match=says("mean must be three numbers, or one for each of 4 channels, got [0.5]")):
        build_body("test_resnet", in_channels=4, mean=[0.5])
    body: Any = build_body("test_resnet", in_channels=1, mean=(0.1, 0.2, 0.6))
    assert (body.mean, body.std) == (pytest.approx((0.3,)), (0.5,))


@pytest.mark.parametrize(
    "other", [torch.full((1, 3, 1, 1), 0.1), torch.full((3,), 0.1), None, 0.5, lambda: 0.5, (0.1,)]
)
def test_a_body_of_ones_own_may_mean_something_else(other):
    backbone: Any = pst_backbone("test_resnet", out_channels=64)
    vars(backbone.body)["mean"] = other
    model = fcos(backbone, 3)
    assert model.transform.image_mean == [*IMAGENET_MEAN]
    assert model.transform.image_std == [*HALF]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean must have 3 numbers, one for each channel, got [0.5, 0.5]"),
        ({"image_mean": 0.5}, "image_mean must have 3 numbers, one for each channel, got 0.5"),
        ({"image_std": ["a", "b", "c"]}, "image_std must have 3 numbers, one for each channel, got ['a', 'b', 'c']"),
        ({"image_std": [0, 0, 0]}, "image_std … must be from 0.0001 to 10, got [0.0, 0.0, 0.0]"),
        (
            {"image_mean": [123.7, 116.3, 103.5]},
            "image_mean … must be from -2 to 2, got … divide those of bytes by 255",
        ),
        ({"image_mean": [0.1, 0.2, float("nan")]}, "image_mean … must be from -2 to 2, got [0.1, 0.2, nan]"),
    ],
)
def test_what_a_detector_cannot_normalise_by_is_refused(options, message):
    with pytest.raises(ValueError, match=says(message)):
        fcos("test_resnet", 3, backbone_options=SMALL, **options)


def test_a_network_that_its_library_knows_nothing_of_has_imagenets(monkeypatch):
    monkeypatch.setattr("pst.backbones.torchvision.list_models", lambda: ["mine"])
    network = torchvision.models.resnet18()
    monkeypatch.setattr("pst.backbones.torchvision.get_model", lambda *_, **__: network)
    body: Any = build_body("mine", "torchvision")
    assert (body.mean, body.std) == (IMAGENET_MEAN, IMAGENET_STD)
    del network.fc
    assert statistics_of(network, 1) == (per_channel(IMAGENET_MEAN, 1), per_channel(IMAGENET_STD, 1))
