"""Models with PST rows, built by Ultralytics' own parser."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import pst

pytestmark = pytest.mark.usefixtures("registered")


def small(*pst_args: Any, f: list[int] | None = None, repeats: int = 1, **top: Any) -> dict[str, Any]:
    """A model dictionary with one PST row (index 4) over two levels."""
    return {
        "nc": 2,
        "backbone": [
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "Conv", [48, 3, 2]],
            [-1, 1, "Conv", [80, 3, 2]],
            [-1, 1, "Conv", [80, 3, 1]],
        ],
        "head": [
            [[1, 3] if f is None else f, repeats, "PST", list(pst_args) or [64]],
            [[4, 3], 1, "Detect", ["nc"]],
        ],
        **top,
    }


def build(d: dict[str, Any]) -> Any:
    from ultralytics.nn import tasks

    model: Any = tasks.DetectionModel  # annotated as taking a path alone
    return model(copy.deepcopy(d), verbose=False)


def test_widths_and_settings_reach_the_layer() -> None:
    layer = build(small(128, 1.5, 0.25, {"topk": 3, "fusion": "refine"})).model[4]
    assert (layer.in_channels, layer.upper_channels, layer.out_channels) == (48, 80, 128)
    attention = layer.blocks[0].attn
    assert (attention.dim, attention.topk, attention.fusion) == (32, 3, "refine")
    assert layer.blocks[0].mlp[0].conv.out_channels == 48


def test_defaults_of_a_short_row() -> None:
    layer = build(small(64)).model[4]
    assert layer.blocks[0].attn.dim == 32
    assert layer.blocks[0].mlp[0].conv.out_channels == 64
    assert (layer.blocks[0].attn.topk, layer.blocks[0].attn.fusion) == (0, "gate")


def test_width_and_depth_are_scaled_as_for_any_row() -> None:
    d = small(1024, repeats=6, scales={"n": [0.5, 0.25, 512]}, scale="n")
    layer = build(d).model[4]
    assert layer.out_channels == 128  # min(1024, 512) · 0.25
    assert len(layer.blocks) == 3  # 6 · 0.5
    assert layer.in_channels == 16  # make_divisible(48 · 0.25, 8)


def test_relative_sources_equal_absolute_ones() -> None:
    relative = build(small(64, f=[-3, -1])).model[4]
    assert (relative.in_channels, relative.upper_channels) == (48, 80)
    assert relative.f == [-3, -1]


def test_forward_is_the_layer_applied_to_its_sources() -> None:
    model = build(small(64, {"topk": 2})).eval()
    x = torch.randn(1, 3, 64, 96)
    outputs, y = [], x
    for layer in model.model[:4]:
        y = layer(y)
        outputs.append(y)
    expected = pst.PST.forward(model.model[4], outputs[1], outputs[3])
    seen = []
    model.model[4].register_forward_hook(lambda module, args, out: seen.append(out))
    model(x)
    torch.testing.assert_close(seen[0], expected)


def test_activation_setting_reaches_the_layer_and_is_given_back() -> None:
    from ultralytics.nn.modules.conv import Conv

    before = Conv.default_act
    layer = build(small(64, activation="torch.nn.ReLU()")).model[4]
    assert isinstance(layer.reduce.act, nn.ReLU)
    assert isinstance(layer.blocks[0].attn.q.act, nn.Identity)
    assert Conv.default_act is before


def test_batch_norm_follows_the_host() -> None:
    norms = [m for m in build(small(64)).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


def test_model_without_pst_rows_is_built_by_the_original() -> None:
    from pst.integrations.ultralytics import unregister

    d = small(64)
    d["head"] = [[[1, 3], 1, "Detect", ["nc"]]]
    torch.manual_seed(0)
    ours = build(d)
    unregister()
    torch.manual_seed(0)
    stock = build(d)
    assert str(ours) == str(stock)
    for a, b in zip(ours.state_dict().values(), stock.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_fuse_folds_every_norm_of_the_layer_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = build(small(64, {"topk": 2})).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.get_buffer("running_mean"), 0, 0.1)
            nn.init.uniform_(m.get_buffer("running_var"), 0.5, 1.5)
    model = model.double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)[0]
        fused = model.fuse(verbose=False)
        after = fused(x)[0]
    assert not [m for m in fused.model[4].modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("args", "f"),
    [([64, 2.0, 0.5, 1], None), ([64, {"k": 3}], None), ([], [1, 3]), ([64], [1, 2, 3])],
)
def test_malformed_row_is_named(args: list[Any], f: list[int] | None) -> None:
    d = small(64)
    d["head"][0] = [d["head"][0][0] if f is None else f, 1, "PST", args]
    with pytest.raises(ValueError, match=r"row 4 .* is not a PST row: wanted \[\[x, upper\], repeats, PST"):
        build(d)


def test_one_source_is_refused() -> None:
    d = small(64)
    d["head"][0][0] = -1
    with pytest.raises(ValueError, match="row 4"):
        build(d)
