"""Plain vision transformers as bodies: exact strides, which tokens count, frozen, sizes, weights, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from messages import says
from pst import PSTPyramid
from pst.backbones import build_body
from pst.backbones.plain import PlainBody
from pst.backbones.simple_pyramid import SimplePyramid
from pst.integrations.segmentation import PSTSegmenter
from pst.integrations.timm import PSTFeatures
from pst.integrations.torchvision import PSTDetector, pst_backbone

REGISTERS = "vit_small_patch14_reg4_dinov2"
TINY: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
IMAGE = torch.rand(1, 3, 70, 101)


class Patches(PlainBody):
    """Tokens that know their patch alone: a convolution. So a shift of the image is a shift of them."""

    def __init__(self, patch: int, **options: Any) -> None:
        super().__init__(nn.Conv2d(3, 8, patch, patch), "patches", patch=patch, tokens=8, in_channels=3,
                         image_size=None, finest=4, coarsest=32, statistics=((0.5,) * 3, (0.5,) * 3),
                         **options)  # fmt: skip

    def tokens(self, x: Tensor) -> Tensor:
        return self.model(x)


def tiny(name: str = "test_vit", **options: Any) -> Any:
    """A body of random weights, the same each time."""
    torch.manual_seed(0)
    given: dict[str, Any] = {"width": 16} | options
    return build_body(name, **given)


def trained(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_a_shift_of_the_image_by_a_stride_is_a_shift_of_every_level_by_one(patch):
    torch.manual_seed(0)
    body = Patches(patch, width=4).eval().double()
    scene = torch.rand(1, 3, 224, 256, dtype=torch.float64)
    maps, moved = body(scene[..., :224]), body(scene[..., 32:])
    for r in body.reductions:
        step, edge = 32 // r, 2 * (32 // r)
        here, there = maps[str(r)][..., step:], moved[str(r)][..., :-step]
        torch.testing.assert_close(there[..., edge:-edge, edge:-edge], here[..., edge:-edge, edge:-edge])


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96), (70, 101)])
@pytest.mark.parametrize("patch", [14, 16])
def test_every_size_gives_maps_of_the_filled_images(patch, size):
    maps = Patches(patch, width=4)(torch.rand(2, 3, *size))
    filled = [-(-side // 16) * 16 for side in size]
    for r in (4, 8, 16, 32):
        assert maps[str(r)].shape == (2, 4, -(-filled[0] // r), -(-filled[1] // r))


def test_the_pyramid_has_the_layers_of_the_paper():
    levels: Any = SimplePyramid(8, 16, (4, 8, 16, 32), 6).levels
    kinds = {r: [type(m).__name__ for m in level] for r, level in levels.items()}
    tail = ["Conv2d", "ChannelNorm", "Conv2d", "ChannelNorm"]
    assert kinds == {
        "4": ["ConvTranspose2d", "ChannelNorm", "GELU", "ConvTranspose2d", *tail],
        "8": ["ConvTranspose2d", *tail],
        "16": tail,
        "32": ["_Halved", *tail],
    }


def test_norms_are_over_the_channels_of_a_position():
    level = SimplePyramid(8, 16, (16,), 6)(torch.rand(2, 8, 5, 3) * 9)["16"]
    torch.testing.assert_close(level.mean(1), torch.zeros(2, 5, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(level.var(1, unbiased=False), torch.ones(2, 5, 3), atol=1e-2, rtol=0)


def test_an_odd_row_is_pooled_by_itself():
    [halved] = [m for m in SimplePyramid(1, 16, (32,), 2).modules() if type(m).__name__ == "_Halved"]
    x = -torch.arange(1.0, 10).reshape(1, 1, 3, 3)  # negative: a zero beside it would win
    assert halved(x).flatten().tolist() == [-1, -3, -7, -9]


@pytest.mark.parametrize(("name", "options"), [("test_vit", {}), (REGISTERS, TINY), ("vit_small_patch16_dinov3", TINY)])
def test_the_map_is_the_networks_last_tokens_without_class_and_registers(name, options):
    body = tiny(name, **options).eval()
    x = torch.rand(1, 3, 4 * body.patch, 6 * body.patch)
    tokens = body.model.forward_features(x)
    prefix = body.model.num_prefix_tokens
    assert prefix >= 1
    assert tokens.shape[1] == prefix + 24
    torch.testing.assert_close(body.tokens(x), tokens[:, prefix:].transpose(1, 2).unflatten(2, (4, 6)))


def test_every_parameter_gets_a_gradient_when_all_is_trained():
    body, pyramid = tiny(REGISTERS, **TINY).train(), PSTPyramid([16] * 4, 64)
    maps = pyramid(body(torch.rand(2, 3, 64, 64)))
    torch.stack([y.square().sum() for y in maps.values()]).sum().backward()
    assert [n for n, p in body.named_parameters() if p.grad is None] == []


def test_frozen_means_neither_gradients_nor_training_mode():
    body = tiny(frozen=True).train()
    assert not any(m.training for m in body.model.modules())
    assert body.pyramid.training
    assert {name.partition(".")[0] for name in trained(body)} == {"pyramid"}
    body.requires_grad_(True)  # as a training loop may
    x = torch.rand(2, 3, 64, 64, requires_grad=True)
    torch.stack([y.sum() for y in body(x).values()]).sum().backward()
    assert x.grad is None
    assert all(p.grad is None for p in body.model.parameters())
    assert all(p.grad is not None for p in body.pyramid.parameters())


def test_a_network_of_one_size_says_so():
    body = tiny("test_vit_relpos", img_size=64)
    assert body.image_size == (64, 64)
    assert body.eval()(torch.rand(1, 3, 64, 64))["32"].shape == (1, 16, 2, 2)
    with pytest.raises(ValueError, match=says("test_vit_relpos … (64, 64) … (70, 101)")):
        body(IMAGE)


def test_levels_that_are_not_asked_for_are_not_built():
    assert tiny(finest=8, coarsest=16).reductions == (8, 16)
    backbone: Any = pst_backbone("test_vit", returned_layers=(1, 3), out_channels=64)
    assert backbone.body.reductions == (4, 16)
    assert list(backbone.body.pyramid.levels) == ["4", "16"]


def test_images_of_other_channels():
    assert tiny(in_channels=5)(torch.rand(1, 5, 64, 64))["4"].shape == (1, 16, 16, 16)
    with pytest.raises(ValueError, match=says("1 channels … (1, 3, 70, 101)")):
        tiny(in_channels=1)(IMAGE)


def test_weights_of_timms_classifier_and_of_the_body_itself():
    torch.manual_seed(1)
    classifier: Any = timm.create_model("test_vit")
    state = dict(classifier.state_dict())
    body = tiny(weights=state, frozen=True).eval()
    x = torch.rand(1, 3, 64, 96)
    same: Any = timm.create_model("test_vit", dynamic_img_size=True)
    same.load_state_dict(state)
    tokens = same.eval().forward_features(x)[:, classifier.num_prefix_tokens :]
    torch.testing.assert_close(body.tokens(x), tokens.transpose(1, 2).unflatten(2, (4, 6)))
    assert {name.partition(".")[0] for name in trained(body)} == {"pyramid"}

    again = tiny(weights=body.state_dict()).eval()
    assert all(torch.equal(a, b) for a, b in zip(body(IMAGE).values(), again(IMAGE).values(), strict=True))
    del state["blocks.0.norm1.weight"]
    with pytest.raises(ValueError, match=says("1 missing, e.g. blocks.0.norm1.weight")):
        tiny(weights=state)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: build_body("test_vit", width=0), ["width … 0"]),
        (lambda: build_body("test_vit", coarsest=64), ["64"]),
        (lambda: build_body("test_vit", finest=2), ["finest … 2"]),
        (lambda: build_body("resnet18", frozen=True), ["resnet18", "frozen", "plain"]),
        (lambda: pst_backbone("test_vit", trainable_layers=3), ["test_vit", "0 (frozen)", "3"]),
        (lambda: PSTFeatures("test_vit", out_indices=(1, 4)), ["4 levels", "(1, 4)"]),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(call, parts):
    with pytest.raises(ValueError, match=says(" … ".join(parts))):
        call()


def test_torchvisions_builders_freeze_or_train_it():
    assert pst_backbone("test_vit", trainable_layers=0).body.frozen
    weights = timm.create_model("test_vit").state_dict()
    assert not pst_backbone("test_vit", backbone_weights=weights).body.frozen
    assert pst_backbone("test_vit", body_options={"frozen": True, "width": 32}).body.channels == (32,) * 4


def test_saved_models_are_the_same_when_loaded(tmp_path):
    weights = timm.create_model("test_vit").state_dict()
    options: dict[str, Any] = {"out_channels": 64, "body_options": {"frozen": True, "width": 16}}
    detector = PSTDetector("fcos", "test_vit", 3, backbone_weights=weights, backbone_options=options)
    detector.save_pretrained(tmp_path / "detector")
    loaded = PSTDetector.from_pretrained(tmp_path / "detector")
    assert trained(loaded) == trained(detector)
    assert loaded.model.backbone.body.frozen

    segmenter = PSTSegmenter("test_vit", classes=3, encoder_options={"width": 16, "frozen": True}).eval()
    segmenter.save_pretrained(tmp_path / "segmenter")
    assert torch.equal(PSTSegmenter.from_pretrained(tmp_path / "segmenter")(IMAGE), segmenter(IMAGE))


def test_timms_features_have_its_levels():
    model: Any = timm.create_model("pst_test_vit", features_only=True, out_channels=64, width=16, frozen=True).eval()
    assert model.feature_info.reduction() == [8, 16, 32]
    assert model.feature_info.channels() == [64] * 3
    assert [y.shape[2:] for y in model(IMAGE)] == [(10, 14), (5, 7), (3, 4)]
    assert all(name.startswith(("backbone.pyramid.", "pyramid.")) for name in trained(model))
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).in_channels == 3
    assert PSTFeatures("test_vit", finest=4, out_channels=64).feature_info.reduction() == [4, 8, 16, 32]


def test_the_exported_program_runs_at_another_size():
    torch.manual_seed(0)
    body = Patches(14, width=4).eval()

    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.body(x).values())

    free = dict.fromkeys((2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(Levels(), (torch.rand(1, 3, 64, 96),), dynamic_shapes=(free,)).module()
    for got, wanted in zip(program(IMAGE), body(IMAGE).values(), strict=True):
        torch.testing.assert_close(got, wanted)
