from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("timm")

import pst
from battery import digest, filled
from pst.export import load, to_onnx
from pst.integrations.segmentation import ArgMax, PSTSegmenter, build_activation, register_smp

DOCUMENT = Path(__file__).parents[2] / "docs" / "segmentation.md"
SWIN = {"embed_dim": 32, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "mobilenetv4_conv_small": {},
    "swin_tiny_patch4_window7_224": {"encoder_options": SWIN},  # gives (B, H, W, C) and wants multiples of 4
}
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


def build(encoder: str = "resnet18", **options: Any) -> Any:
    torch.manual_seed(0)
    widths: dict[str, Any] = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    return PSTSegmenter(encoder, classes=3, **(widths | ENCODERS.get(encoder, {}) | options))


@every_encoder
@pytest.mark.parametrize("neck", ["pst", "fpn", "none"])
def test_every_parameter_gets_a_gradient(encoder, neck):
    model = build(encoder, neck=neck).train()
    model(torch.rand(2, 3, 65, 97)).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


@every_encoder
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (61, 130), (7, 9), (1, 1)])
def test_any_size_and_any_k(encoder, size):
    model, x = build(encoder).eval(), torch.rand(2, 3, *size)
    with torch.no_grad():
        for k in (0, 1, 8, 10**6):
            pst.set_topk(model, k)
            y = model(x)
            assert y.shape == (2, 3, *size)
            assert y.isfinite().all()


def test_a_network_of_torchvision():
    model = build(encoder_options={"library": "torchvision"}).eval()
    with torch.no_grad():
        for size in ((64, 96), (61, 130)):
            assert model(torch.rand(2, 3, *size)).shape == (2, 3, *size)


@every_encoder
def test_runs_are_bitwise_equal_and_images_apart(encoder):
    model, x = filled(build(encoder, topk=8)).eval().double(), torch.rand(2, 3, 63, 66, dtype=torch.float64)
    with torch.no_grad():
        before = torch.get_rng_state()
        y = model(x)
        assert digest(y) == digest(model(x))
        assert torch.equal(before, torch.get_rng_state())
        torch.testing.assert_close(model(x[1:]), y[1:], rtol=1e-9, atol=1e-9)


def test_without_a_neck_no_map_sees_another():
    neck = build(neck="none").decoder.neck.eval()
    maps = {name: torch.randn(1, c, 8, 8) for name, c in (("4", 64), ("8", 128), ("16", 256), ("32", 512))}
    before = neck(maps)
    after = neck({**maps, "32": torch.zeros_like(maps["32"])})
    assert [name for name in maps if not torch.equal(before[name], after[name])] == ["32"]


def test_k_changes_the_result_and_comes_back():
    model, x = filled(build()).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        coarse = model(x)
        with pst.use_topk(model, 8):
            assert not torch.equal(model(x), coarse)
        assert torch.equal(model(x), coarse)


def test_masks_lie_where_the_image_is():
    """A model that labels by brightness labels each half as that half is bright, at a size of no whole multiple."""
    model = build("resnet18").eval()
    model.encoder = Brightness()
    model.decoder = PickFinest()
    model.segmentation_head = nn.Identity()
    x = torch.zeros(1, 3, 61, 90)
    x[..., 44:] = 1
    y = model(x)[0, 0]
    assert y.shape == (61, 90)
    assert (y[:, :40] < 0.01).all()
    assert (y[:58, 48:86] > 0.99).all()


class Brightness(nn.Module):
    """An encoder whose map of reduction 4 is the mean of each 4×4 patch."""

    multiple = 4

    def forward(self, x):
        x = nn.functional.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return {"4": nn.functional.avg_pool2d(x, 4)[:, :1]}


class PickFinest(nn.Module):
    def forward(self, maps):
        return maps["4"]


def test_state_dict_round_trip_and_pickled_copy(tmp_path):
    model, x = filled(build(topk=4)).eval(), torch.rand(1, 3, 40, 40)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = build(topk=4).eval()
    assert digest(other(x)) != digest(model(x))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert digest(other(x)) == digest(model(x))


def test_names_are_those_of_segmentation_models_pytorch():
    model = PSTSegmenter(
        encoder_name="tu-resnet18", encoder_weights=None, in_channels=4, classes=2, activation="sigmoid"
    )
    assert {"encoder", "decoder", "segmentation_head"} <= {name for name, _ in model.named_children()}
    model.train().encoder.eval()
    y = model.predict(torch.rand(1, 4, 32, 32))
    assert isinstance(y, torch.Tensor)
    assert y.shape == (1, 2, 32, 32)
    assert 0 < y.min() < y.max() < 1
    assert not y.requires_grad
    assert model.training
    assert all(m.training for m in model.decoder.modules())
    assert not any(m.training for m in model.encoder.modules())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, lambda x: x),
        ("identity", lambda x: x),
        ("sigmoid", torch.sigmoid),
        ("softmax", lambda x: x.softmax(1)),
        ("softmax2d", lambda x: x.softmax(1)),
        ("logsoftmax", lambda x: x.log_softmax(1)),
        ("tanh", torch.tanh),
        ("argmax", lambda x: x.argmax(1)),
        ("clamp", lambda x: x.clamp(0, 1)),
        (nn.ReLU, torch.relu),
        (ArgMax, lambda x: x.argmax(1)),
    ],
)
def test_activations(name, expected):
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(build_activation(name)(x), expected(x))


def test_aux_params_add_labels_of_the_image():
    model = build(aux_params={"classes": 7, "pooling": "max", "dropout": 0.5, "activation": "sigmoid"}).eval()
    masks, labels = model(torch.rand(2, 3, 64, 64))
    assert masks.shape == (2, 3, 64, 64)
    assert labels.shape == (2, 7)
    assert (labels > 0).all()
    assert (labels < 1).all()


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_encoder_depth_sets_the_coarsest_map(depth):
    model = build(encoder_depth=depth)
    assert model.encoder.reductions[-1] == 2**depth
    assert model.decoder.names == ["4", "8", "16", "32"][: depth - 1]
    assert len(pst.control.attention_layers(model)) == depth - 2


@pytest.mark.parametrize("weights", [True, "imagenet", "a1_in1k"])
def test_encoder_weights_are_timms(weights, monkeypatch):
    import timm

    seen = []
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        seen.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    build("resnet18", encoder_weights=weights)
    assert seen[-1] == ("resnet18.a1_in1k" if weights == "a1_in1k" else "resnet18", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_name": "resnet81"}, "timm has no model 'resnet81'"),
        ({"encoder_depth": 2}, "encoder_depth must be 3, 4 or 5.*got 2"),
        ({"classes": 0}, "classes must be ≥ 1, got 0"),
        ({"activation": "relu6"}, "activation must be None, one of .*got 'relu6'"),
        ({"neck": "unet"}, r"neck must be one of pst, fpn, none, got 'unet'"),
        ({"neck": "fpn", "topk": 4}, 'neck="fpn" has no attention, got topk=4'),
        ({"neck": "none", "topk": 4}, 'neck="none" has no attention, got topk=4'),
        ({"neck": "none", "neck_options": {"depth": 2}}, 'neck="none" has no options, got .*depth'),
        ({"neck": "fpn", "neck_options": {"max_tokens": 9}}, 'neck="fpn" has the option norm_layer alone'),
        ({"aux_params": {"classes": 2, "pooling": "sum"}}, r"pooling must be one of avg, max, got 'sum'"),
    ],
)
def test_errors_say_what_was_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        PSTSegmenter(**options)


def test_an_image_without_a_batch_is_refused():
    with pytest.raises(
        ValueError, match=r"expected images \(batch, channels, height, width\), got shape \(3, 32, 32\)"
    ):
        build()(torch.rand(3, 32, 32))


def test_register_smp_adds_an_architecture(monkeypatch):
    smp = ModuleType("segmentation_models_pytorch")
    monkeypatch.setitem(sys.modules, smp.__name__, smp)
    with pytest.raises(ImportError, match="register_smp needs segmentation_models_pytorch"):
        register_smp()
    known: dict[str, type] = {}
    monkeypatch.setattr(smp, "MODEL_ARCHITECTURES_MAPPING", known, raising=False)
    register_smp()
    assert known == {"pst": PSTSegmenter}


def test_four_images_are_learnt_by_heart():
    torch.manual_seed(0)
    target = torch.zeros(4, 40, 52, dtype=torch.long)
    for i in range(4):
        target[i, 4 + 4 * i : 20 + 4 * i, 6:30], target[i, 8:24, 34 - 2 * i : 50 - 2 * i] = 1, 2
    images = nn.functional.one_hot(target, 3).permute(0, 3, 1, 2) + 0.2 * torch.randn(4, 3, 40, 52)
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), target).backward()
        optimizer.step()
    predicted = model.predict(images).argmax(1)
    for c in range(3):
        overlap = ((predicted == c) & (target == c)).sum() / ((predicted == c) | (target == c)).sum()
        assert overlap > 0.5


# -------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("k", [0, 8])
def test_traced_onnx_runs_at_another_size(k, tmp_path):
    pytest.importorskip("onnxruntime")
    model = filled(build(topk=k, encoder_depth=4)).eval()
    path = to_onnx(model, (torch.rand(2, 3, 64, 80),), tmp_path / "model.onnx", dynamic=True)
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(load(path)(x), model(x), rtol=1e-3, atol=1e-3)


@every_encoder
def test_torch_export_gives_the_same_result(encoder):
    model = build(encoder, topk=4, encoder_depth=3).eval()
    program = torch.export.export(model, (torch.rand(1, 3, 64, 80),), strict=False).module()
    x = torch.rand(1, 3, 64, 80)
    torch.testing.assert_close(program(x), model(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the exporter's own
def test_onnx_by_torch_export_runs_at_odd_sizes(tmp_path):
    pytest.importorskip("onnxscript")
    model = build(topk=8, encoder_depth=4).eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (torch.rand(2, 3, 64, 80),), str(path), dynamo=True, dynamic_shapes=(free,), verbose=False)
    for size in ((2, 3, 64, 80), (1, 3, 97, 131), (3, 3, 96, 64)):
        x = torch.rand(*size)
        with torch.no_grad():
            torch.testing.assert_close(load(path)(x), model(x), rtol=1e-3, atol=1e-3)


def test_every_snippet_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 2
    for code in snippets:
        exec(compile(code, DOCUMENT.name, "exec"), {})
    assert (tmp_path / "segmenter.onnx").is_file()
