"""Images of 1, 2, 4 and 5 channels through bodies and detectors: sizes, statistics, published weights, errors."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.data import resolve_model_data_config
from torch import nn

from pst.backbones import build_body
from pst.backbones.channels import per_channel
from pst.integrations.segmentation import PSTSegmenter
from pst.integrations.timm import PSTClassifier, measure
from pst.integrations.torchvision import faster_rcnn, fcos, pst_backbone

LIBRARIES = pytest.mark.parametrize(("library", "name"), [("timm", "test_resnet"), ("torchvision", "resnet18")])


def stem(module: nn.Module) -> nn.Conv2d:
    return next(m for m in module.modules() if isinstance(m, nn.Conv2d))


def test_statistics_are_the_average_or_repeated_in_turn():
    assert per_channel((1.0, 2.0, 6.0), 1) == (3.0,)
    assert per_channel((1.0, 2.0, 6.0), 3) == (1.0, 2.0, 6.0)
    assert per_channel((1.0, 2.0, 6.0), 5) == (1.0, 2.0, 6.0, 1.0, 2.0)
    assert per_channel((0.3,), 1) == (0.3,)


@LIBRARIES
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_frozen_stages_and_the_stem_follow_the_channels(library, name, channels):
    backbone = pst_backbone(name, library=library, out_channels=64, in_channels=channels, trainable_layers=2)
    assert stem(backbone).weight.shape[1] == channels
    assert not stem(backbone).weight.requires_grad
    assert backbone(torch.rand(1, channels, 64, 64))["0"].shape == (1, 64, 16, 16)
    with pytest.raises(ValueError, match=rf"takes images of {channels} channels, got shape \(1, 3, 64, 64\)"):
        backbone(torch.rand(1, 3, 64, 64))


@LIBRARIES
def test_timms_own_name_is_taken_and_a_contradiction_refused(library, name):
    assert build_body(name, library, in_chans=4).get_submodule("") is not None
    backbone: Any = pst_backbone(name, library=library, out_channels=64, body_options={"in_chans": 4})
    assert backbone.body.in_channels == stem(backbone).weight.shape[1] == 4
    with pytest.raises(ValueError, match="in_channels=1 and in_chans=4 contradict"):
        build_body(name, library, in_channels=1, in_chans=4)
    for wrong in (0, 1.0, True):
        with pytest.raises(ValueError, match="in_chans must be an integer ≥ 1"):
            build_body(name, library, in_chans=wrong)


@LIBRARIES
@pytest.mark.parametrize("channels", [1, 4])
def test_published_weights_are_adapted_as_timm_does(library, name, channels, tmp_path, monkeypatch):
    torch.manual_seed(0)
    published = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    options: dict[str, Any] = {}
    if library == "timm":
        options["pretrained_cfg_overlay"] = {"file": str(tmp_path / "weights.pth")}
    else:
        enum = torchvision.models.get_model_weights(name)
        monkeypatch.setattr(enum, "get_state_dict", lambda *_, **__: published.state_dict())
    body = build_body(name, library, pretrained=True, in_channels=channels, **options)
    old = stem(published).weight
    wanted = old.sum(1, keepdim=True) if channels == 1 else old[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(stem(body).weight, wanted)
    if channels == 1:  # so a grey picture is seen as the same picture in three equal channels
        grey = torch.rand(1, 1, 64, 64)
        three = build_body(name, library, pretrained=True, **options).eval()
        for one, same in zip(body.eval()(grey).values(), three(grey.expand(-1, 3, -1, -1)).values(), strict=True):
            torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [fcos, faster_rcnn])
@pytest.mark.parametrize("channels", [1, 4])
def test_detectors_normalise_and_train_on_any_channels(build, channels):
    more = {"out_channels": 64, "in_channels": channels, "trainable_layers": 3, "returned_layers": (2, 3, 4)}
    model = build("test_resnet", 3, min_size=64, max_size=64, backbone_options=more)
    assert model.transform.image_mean == model.transform.image_std == [0.5] * channels  # timm's of test_resnet
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(channels, 64, 64)], [target])
    assert all(bool(loss.isfinite()) for loss in losses.values())
    with pytest.raises(ValueError, match=rf"image_mean must have {channels} numbers"):
        build("test_resnet", 3, backbone_options=more, image_mean=[0.5, 0.5, 0.5])


@pytest.mark.parametrize("channels", [1, 4])
def test_models_on_timm_say_what_images_they_take(channels):
    model = PSTClassifier("test_resnet", num_classes=3, in_chans=channels, width=64)
    config = resolve_model_data_config(model)
    assert config["input_size"][0] == len(config["mean"]) == len(config["std"]) == channels
    with pytest.raises(ValueError, match=rf"pst_test_resnet takes images of {channels} channels"):
        model(torch.rand(1, 3, 64, 64))
    assert measure("pst_resnet18", in_chans=channels).gflops != measure("pst_resnet18").gflops
    segmenter = PSTSegmenter("test_resnet", in_channels=channels, decoder_pyramid_channels=64).eval()
    assert segmenter(torch.rand(1, channels, 33, 47)).shape == (1, 1, 33, 47)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_integers_in_the_place_of_images_are_refused(library):
    body = build_body("resnet18", library, coarsest=8)
    with pytest.raises(TypeError, match=r"takes float images, .* got torch\.uint8: convert them"):
        body(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
