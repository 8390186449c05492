"""timm models with PST: the contract of timm's own model tests, the paper's layout, weights, and what is refused."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import pst
from battery import leaves
from messages import says
from pst.control import attention_layers
from pst.integrations.timm import PSTClassifier, measure, register
from tensors import assert_close

# A backbone of each family, the smallest or made small, with its options.
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "regnetx_002": {},
    "convnext_atto": {},
    "mobilenetv4_conv_small_035": {},
    "test_efficientnet": {},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64,
        "window_size": 2,
        "embed_dim": 32,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 4, 8),
    },
    "pvt_v2_b0": {},
    "hgnetv2_b0": {},
    "efficientformerv2_s0": {"img_size": 64},
    "repvit_m0_9": {},
    "test_vit": {"img_size": 64},
}


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 64)


def create(name: str, **options: Any) -> Any:
    return timm.create_model(f"pst_{name}", **(FAMILIES.get(name, {}) | options))


def step(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Output and gradients, with the same dropout each time."""
    model.zero_grad()
    torch.manual_seed(0)
    out = model(x)
    out.square().mean().backward()
    return out.detach(), {name: p.grad for name, p in model.named_parameters()}


# ---------------------------------------------------------------------------------------------- the contract, by family


@pytest.fixture(scope="module", params=FAMILIES)
def name(request) -> str:
    return request.param


def test_forward_and_a_gradient_in_every_parameter(name):
    out, gradients = step(create(name, num_classes=42, topk=2).train(), images())
    assert out.shape == (2, 42)
    assert out.isfinite().all()
    for parameter, gradient in gradients.items():
        assert gradient is not None, parameter
        assert gradient.isfinite().all(), parameter


def test_checkpointing_changes_neither_output_nor_gradients(name):
    model, x = create(name, num_classes=5, topk=2).train(), images()
    expected, plain = step(model, x)
    model.set_grad_checkpointing()
    out, gradients = step(model, x)
    assert_close(out, expected, 1e-5)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[parameter], msg=parameter)


def test_features_head_and_classifier_behave_as_timms(name):
    model, x = create(name).eval(), images()
    config, size = model.default_cfg, x.shape[-1]
    assert config is model.pretrained_cfg
    assert config["num_classes"] == model.num_classes == 1000
    assert f"{config['classifier']}.weight" in model.state_dict()
    first = config["first_conv"]
    for conv in [first] if isinstance(first, str) else first:
        assert f"{conv}.weight" in model.state_dict()
    assert model.get_classifier() is model.get_submodule(config["classifier"])

    features = model.forward_features(x)
    steps = -(-size // model.levels.reduction()[-1])
    assert features.shape == (2, model.num_features, steps, steps)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    assert torch.equal(model(x), model.get_classifier()(pooled))

    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    model.reset_classifier(7, "catavgmax")
    assert model(x).shape == (2, 7)
    assert model.get_classifier().in_features == model.head_hidden_size == 2 * model.num_features


def test_without_classifier_and_pooling_from_the_start(name):
    x = images(1)
    assert create(name, num_classes=0).eval()(x).shape == (1, 1280)
    unpooled = create(name, num_classes=0, global_pool="").eval()(x)
    assert unpooled.ndim == 4
    assert unpooled.shape[1] == 1280


def test_features_only_gives_fused_maps_that_describe_themselves(name):
    model, x = create(name, features_only=True, topk=2).train(), images()
    info, size = model.feature_info, x.shape[-1]
    maps = model(x)
    assert len(maps) == len(info.channels()) == 3
    for y, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert y.shape == (2, channels, size // reduction, size // reduction)
        assert y.isfinite().all()
    kinds = [type(model.get_submodule(module)) for module in info.module_name()]
    assert kinds == [pst.PST, pst.PST, pst.ConvNormAct]
    torch.stack([y.mean() for y in maps]).sum().backward()
    assert [parameter for parameter, p in model.named_parameters() if p.grad is None] == []


def test_layers_are_grouped_from_the_stem_to_the_head(name):
    model = create(name, num_classes=3)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    by_name = {parameter: scale[id(p)] for parameter, p in model.named_parameters()}
    assert all(by_name[parameter] == 1.0 for parameter in by_name if not parameter.startswith("backbone."))
    first = model.default_cfg["first_conv"]
    assert by_name[f"{first}.weight"] == min(by_name.values()) <= 0.5**4


# ------------------------------------------------------------------------------------------------- backbone and weights


@pytest.mark.parametrize("family", ["resnet18", "swin_tiny_patch4_window7_224", "test_efficientnet", "selecsls42"])
def test_the_maps_are_those_of_timms_own_extractor(family):
    own = timm.create_model(family, features_only=True, out_indices=(-2, -1), **FAMILIES.get(family, {})).eval()
    model, x = create(family).eval(), images()
    flattened = re.compile(r"^(layers|stem|features|head)_")  # how timm's own extractor names them
    model.backbone.load_state_dict({flattened.sub(r"\1.", k): t for k, t in own.state_dict().items()})
    maps = [y.permute(0, 3, 1, 2) if "swin" in family else y for y in own(x)]  # timm's own Swin gives NHWC
    for actual, expected in zip(model.forward_maps(x), maps, strict=True):
        assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("features_only", [False, True])
def test_pretrained_loads_the_backbones_weights_and_leaves_the_rest_fresh(tmp_path, features_only):
    whole = timm.create_model("test_resnet", in_chans=3)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    source = {"file": str(tmp_path / "weights.pth")}  # in place of the hub's, all else being timm's own loading
    model = create("test_resnet", pretrained=True, pretrained_cfg_overlay=source, features_only=features_only)
    loaded = model.backbone.state_dict()
    assert len(loaded) > 50
    assert all(torch.equal(t, whole.state_dict()[key]) for key, t in loaded.items())
    assert "file" not in model.pretrained_cfg


def test_a_tag_names_the_backbones_weights():
    model: Any = timm.create_model("pst_resnet18.tv_in1k")
    assert model.default_cfg["tag"] == "tv_in1k"
    assert model.default_cfg["architecture"] == "pst_resnet18"
    host: Any = timm.get_pretrained_cfg("resnet18.tv_in1k")
    assert model.default_cfg["crop_pct"] == host.crop_pct
    assert not {"url", "hf_hub_id"} & set(model.default_cfg)  # no weights of the whole model exist
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("pst_resnet18.nobody")


def test_resnets_have_the_blocks_they_are_named_for():
    for name, block, n in (("resnet18", BasicBlock, 8), ("resnet34", BasicBlock, 16), ("resnet50", Bottleneck, 16)):
        blocks = [m for m in timm.create_model(f"pst_{name}").modules() if isinstance(m, (BasicBlock, Bottleneck))]
        assert [type(m) for m in blocks] == [block] * n


def test_checkpointing_reaches_the_backbone():
    model, calls = create("resnet18", num_classes=2), []
    model.backbone.layer3.register_forward_hook(lambda *_: None)
    model.backbone.layer3[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    step(model, images())
    assert len(calls) == 2
    model.set_grad_checkpointing(False)
    step(model, images())
    assert len(calls) == 3


# --------------------------------------------------------------------------------------------------- the paper's layout


@pytest.mark.parametrize("depth", [50, 101])
def test_the_resnets_are_the_papers_in_every_count(depth):
    with torch.device("meta"):
        model = timm.create_model(f"pst_resnet{depth}")
    paper = {50: 29_260_488, 101: 54_423_368}
    assert sum(p.numel() for p in model.parameters()) == paper[depth]


def test_neck_is_pst_then_two_concatenations():
    model, x = create("resnet18", topk=1).eval(), images()
    fine, coarse = model.forward_maps(x)
    assert (fine.shape[1], coarse.shape[1]) == (256, 512)
    down = model.down(torch.cat([model.fuse(fine, coarse), fine], 1))
    assert down.shape == (2, 256, 2, 2)
    assert torch.equal(model.forward_features(x), model.expand(model.merge(torch.cat([down, coarse], 1))))
    assert isinstance(model.fuse, pst.PST)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet18", 256),
        ("resnet34", 256),
        ("resnet50", 256),
        ("resnet50.a1_in1k", 256),
        ("resnet101", 512),
        ("test_resnet", 64),
        ("regnetx_002", 192),
        ("convnext_atto", 192),
        ("convnext_base", 512),
    ],
)
def test_width_is_the_papers_or_half_the_last_maps(name, width):
    with torch.device("meta"):
        assert PSTClassifier(name).fuse.out_channels == width
        assert PSTClassifier(name, width=128).fuse.out_channels == 128


def test_control_differs_in_the_fused_map_alone():
    torch.manual_seed(0)
    model, control = create("resnet18"), create("resnet18", neck="conv")
    own, theirs = ({k: v.shape for k, v in m.state_dict().items() if "fuse." not in k} for m in (model, control))
    assert own == theirs
    assert not [m for m in control.modules() if isinstance(m, pst.PyramidSparseAttention)]
    x = images()
    fine, coarse = control.eval().forward_maps(x)
    control.load_state_dict({k: v for k, v in model.state_dict().items() if "fuse." not in k}, strict=False)
    fine, coarse = control.forward_maps(x)
    down = control.down(torch.cat([control.fuse(fine), fine], 1))
    assert torch.equal(control.forward_features(x), control.expand(control.merge(torch.cat([down, coarse], 1))))


def test_the_control_has_no_options_of_attention():
    assert create("resnet18", neck="conv", topk=0).fuse is not None
    with pytest.raises(ValueError, match=says('neck="conv" has no attention: leave out topk=8, depth=3')):
        create("resnet18", neck="conv", topk=8, depth=3)


def test_undecayed_parameters_are_the_backbones():
    model = create("swin_tiny_patch4_window7_224")
    names = model.no_weight_decay()
    assert names <= {parameter for parameter, _ in model.named_parameters()}
    assert "backbone.layers.0.blocks.0.attn.relative_position_bias_table" in names
    assert create("resnet18").no_weight_decay() == set()


def test_odd_sizes_and_backbones_that_round_them_down():
    for name in ("resnet18", "densenet121"):
        model = create(name, num_classes=3).eval()
        for size in ((75, 97), (33, 65), (49, 64)):
            assert model(torch.randn(1, 3, *size)).shape == (1, 3)


def test_k_and_fusion_switch_on_the_finished_model():
    model, x = create("resnet18").eval(), images()
    outputs = [model(x)]
    for fusion in ("gate", "refine"):
        pst.set_topk(model, 2)
        pst.set_fusion(model, fusion)
        outputs.append(model(x))
    assert not any(torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    pst.set_topk(model, 0)
    assert torch.equal(model(x), outputs[0])


# -------------------------------------------------------------------------------------------------------- features_only


def test_out_indices_choose_levels_as_in_timm():
    own: Any = timm.create_model("resnet18", features_only=True)
    x = images()
    for indices, used in (((1, 2, 3, 4), (1, 2, 3, 4)), ((-2, -1), (3, 4)), (2, (3, 4)), ((4, 2), (2, 4)), ([3], (3,))):
        model = create("resnet18", features_only=True, out_indices=indices, out_channels=64).eval()
        assert model.feature_info.out_indices == used
        assert model.feature_info.channels() == [64] * len(used)
        assert model.feature_info.reduction() == own.feature_info.reduction(used)
        assert [y.shape[-1] for y in model(x)] == [64 // r for r in own.feature_info.reduction(used)]


def test_features_are_the_pyramid_of_the_backbones_maps():
    model = create("resnet18", features_only=True, share="attention", bottom_up=True, topk=(2, 1)).eval()
    x = images()
    for actual, expected in zip(model(x), model.pyramid(model.forward_maps(x)), strict=True):
        assert torch.equal(actual, expected)
    assert [layer.topk for layer in attention_layers(model).values()] == [2, 1]
    assert model.pyramid.reductions == (8, 16, 32)


# -------------------------------------------------------------------------------------------------------------- options


def test_in_chans_dropout_and_options_of_the_backbone():
    model = create("resnet18", in_chans=5, drop_rate=0.5, drop_path_rate=0.3, num_classes=4)
    assert model.in_chans == 5
    assert model.backbone.conv1.weight.shape[1] == 5
    assert model.head.drop.p == model.drop_rate == 0.5
    assert any(getattr(m, "drop_path", None) is not None for m in model.backbone.modules())
    assert model(torch.randn(2, 5, 64, 64)).shape == (2, 4)
    ratio_one = create("resnet18", output_stride=16).eval()  # the last two maps are then of one size
    assert ratio_one.forward_features(torch.randn(1, 3, 64, 64)).shape[2:] == (4, 4)


def test_settings_reach_the_layer():
    settings: dict[str, Any] = {"depth": 2, "mlp_ratio": 3.0, "expansion": 0.25, "head_dim": 16}
    model = create("resnet18", topk=3, fusion="refine", selection="gumbel", head_width=96, **settings)
    for layer in attention_layers(model).values():
        assert (layer.dim, layer.num_heads, layer.topk, layer.fusion) == (64, 4, 3, "refine")
    assert len(model.fuse.blocks) == 2
    assert model.num_features == 96


def test_learns_a_handful_of_images():
    model, x, labels = create("test_resnet", num_classes=4).train(), images(8), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]


@pytest.mark.parametrize(
    "kind", [{"num_classes": 3}, pytest.param({"features_only": True, "out_indices": 2}, marks=pytest.mark.slow)]
)
def test_export_runs_at_other_sizes_than_traced(kind):
    model = create("test_resnet", topk=2, **kind).eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (torch.randn(2, 3, 96, 128),), dynamic_shapes=(free,), strict=False).module()
    for size in ((1, 3, 160, 128), (3, 3, 101, 131)):
        x = torch.randn(size)
        for actual, expected in zip(leaves(program(x)), leaves(model(x)), strict=True):
            assert_close(actual, expected, 1e-5)


def test_deepcopy_is_a_model_of_its_own():
    model = create("test_resnet", num_classes=3).eval()
    other, x = copy.deepcopy(model), images()
    assert torch.equal(other(x), model(x))
    other.reset_classifier(4)
    assert model.num_classes == 3


def test_every_model_of_timm_has_an_entry_point():
    names = set(timm.list_models())
    own = {name for name in names if not name.startswith("pst_")}
    assert {f"pst_{name}" for name in own} <= names
    assert len(own) > 1000


def test_a_model_of_your_own_can_be_registered():
    name = "resnet_of_a_test"

    def resnet_of_a_test(**options):
        return timm.create_model("test_resnet", **options)

    timm.models.register_model(resnet_of_a_test)
    register(name)
    assert timm.create_model(f"pst_{name}", num_classes=2)(images()).shape == (2, 2)


BAD = {
    "backbone": (lambda: PSTClassifier("resnet19"), ValueError, "timm has no model 'resnet19'"),
    "no maps": (lambda: PSTClassifier("hardcorenas_a"), ValueError, "has no feature maps of 'hardcorenas_a'"),
    "registered": (lambda: register("resnet19"), ValueError, "timm has no model 'resnet19'"),
    "measured": (lambda: measure("resnet19"), ValueError, "timm has no model 'resnet19'"),
    "neck": (lambda: create("resnet18", neck="none"), ValueError, 'neck must be "pst" or "conv", got \'none\''),
    "width": (lambda: create("resnet18", width=80), ValueError, "must be a multiple of head_dim=32"),
    "option": (lambda: create("resnet18", lenght=3), TypeError, "lenght"),
    "share": (lambda: create("resnet18", features_only=True, share="x"), ValueError, "share must be one of"),
}


@pytest.mark.parametrize(("build", "kind", "text"), BAD.values(), ids=BAD)
def test_bad_requests_are_refused(build, kind, text):
    with pytest.raises(kind, match=text):
        build()


# ----------------------------------------------------------------------------------------------------------------- size


def test_measure_counts_what_a_forward_pass_multiplies():
    plain, fused = measure("resnet18"), measure("pst_resnet18")
    assert (plain.parameters, plain.image_size) == (11_689_512, (224, 224))
    assert plain.gflops == pytest.approx(3.628, abs=5e-4)  # 1.814 multiply-adds, as published
    n, m, c, w = 14 * 14, 7 * 7, 128, 256
    attention = 2 * n * m * c  # both products, coarse
    fuse = (
        n * 256 * c
        + m * 512 * c
        + n * c * c
        + m * 2 * c * c
        + m * 49 * c
        + n * c * c
        + 2 * n * 2 * c * c
        + n * 2 * c * w
    )
    rest = m * 9 * (w + 256) * w + m * (w + 512) * w + m * w * 1280 + 1280 * 1000
    added = 2 * (attention + fuse + rest) - 2 * 512 * 1000  # less the plain model's classifier
    assert fused.gflops - plain.gflops == pytest.approx(added / 1e9, abs=1e-9)
    assert measure("pst_resnet18", topk=8).gflops > fused.gflops
