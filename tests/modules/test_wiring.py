"""How the coarser map reaches the finer one beside attention: by nothing, by concatenation, by addition."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pst
from battery import AttentionBattery, filled
from messages import says
from pst.control import attention_layers
from pst.export import compare, load, to_onnx
from pst.modules.upsampling import DySample
from tensors import assert_close

WIRINGS = ("attention", "concat", "add")
wirings = pytest.mark.parametrize("wiring", WIRINGS)


class TestWirings(AttentionBattery):
    compiled: ClassVar = ("concat-dysample",)
    variants: ClassVar = {
        "concat": {"wiring": "concat", "topk": 4},
        "add": {"wiring": "add", "topk": 4, "fusion": "refine"},
        "concat-dysample": {"wiring": "concat", "upsample": "dysample"},
        "aligned-dysample": {"wiring": "add", "upsample": "dysample", "aligned": True, "topk": 2},
    }

    def build(self, **settings):
        return pst.PST(8, 12, 32, head_dim=8, **settings)

    def inputs(self, sizes, batch=2):
        return torch.randn(batch, 8, *sizes[0]), torch.randn(batch, 12, *sizes[1])

    def output_shapes(self, sizes, batch=2):
        return [(batch, 32, *sizes[0])]


def layer(**settings: Any) -> Any:
    return filled(pst.PST(8, 12, 32, head_dim=8, **settings)).eval().double()


def maps(fine: tuple[int, int] = (9, 7), coarse: tuple[int, int] = (4, 5)) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 8, *fine, dtype=torch.float64), torch.randn(2, 12, *coarse, dtype=torch.float64)


def resized(t: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(t, like.shape[2:], mode="bilinear", align_corners=False)


def silenced(module: Any) -> Any:
    """The layer with attention and MLPs that give zero, so that blocks pass on what they get."""
    for block in module.blocks:
        for conv in (block.attn.proj, block.mlp[1]):
            nn.init.zeros_(conv.bn.weight)
            nn.init.zeros_(conv.bn.bias)
    return module


# ------------------------------------------------------------------------------------------------------- their meaning


def test_attention_is_the_default_and_has_the_entries_that_it_had():
    plain, named = layer(topk=3), layer(topk=3, wiring="attention", upsample="bilinear")
    x, upper = maps()
    assert torch.equal(plain(x, upper), named(x, upper))
    assert {name.split(".")[0] for name in plain.state_dict()} == {"reduce", "reduce_upper", "blocks", "project"}
    assert list(plain.state_dict()) == list(layer(wiring="add").state_dict())


def test_without_attention_add_is_the_sum_of_an_fpn():
    module, (x, upper) = silenced(layer(wiring="add", depth=2)), maps()
    merged = module.reduce(x) + resized(module.reduce_upper(upper), x)
    assert_close(module(x, upper), module.project(torch.cat([merged] * 3, 1)))


def test_without_attention_concat_reduces_both_maps_together():
    module, (x, upper) = silenced(layer(wiring="concat")), maps()
    merged = module.reduce(torch.cat([x, resized(upper, x)], 1))
    assert module.reduce.conv.in_channels == 8 + 12
    assert_close(module(x, upper), module.project(torch.cat([merged] * 2, 1)))


def test_without_attention_the_default_passes_nothing_of_the_coarser_map():
    module, (x, upper) = silenced(layer()), maps()
    assert torch.equal(module(x, upper), module(x, torch.zeros_like(upper)))


@wirings
def test_the_blocks_attend_to_the_reduced_coarser_map(wiring):
    module, (x, upper) = layer(wiring=wiring, topk=2), maps()
    first = {
        "attention": lambda: module.reduce(x),
        "concat": lambda: module.reduce(torch.cat([x, resized(upper, x)], 1)),
        "add": lambda: module.reduce(x) + resized(module.reduce_upper(upper), x),
    }[wiring]()
    second = module.blocks[0](first, module.reduce_upper(upper))
    assert_close(module(x, upper), module.project(torch.cat([first, second], 1)))


def test_aligned_levels_add_unless_they_concatenate():
    x, upper = maps()
    assert torch.equal(layer(aligned=True)(x, upper), layer(aligned=True, wiring="add")(x, upper))
    assert layer(aligned=True, wiring="concat").reduce.conv.in_channels == 20


@pytest.mark.parametrize("wiring", ["concat", "add"])
def test_dysample_begins_as_bilinear(wiring):
    x, upper = maps()
    plain, learnt = layer(wiring=wiring), layer(wiring=wiring, upsample="dysample")
    for module in learnt.modules():
        if isinstance(module, DySample):
            module.start()
    learnt.load_state_dict({**learnt.state_dict(), **plain.state_dict()})
    assert_close(learnt(x, upper), plain(x, upper), 1e-10)
    torch.manual_seed(0)
    fresh = pst.PST(8, 12, 32, head_dim=8, wiring=wiring, upsample="dysample")
    offsets = [p for name, p in fresh.named_parameters() if ".offset." in name]
    assert len(offsets) == 4  # of the coarser map and of the position term
    assert not any(bool(p.any()) for p in offsets)


def test_another_frame_gets_the_coarser_map_added_and_none_concatenated():
    module, (x, upper) = layer(wiring="add", topk=2), maps()
    fine = torch.randn(2, 8, 6, 8, dtype=torch.float64)
    u = module.reduce_upper(upper)
    other, first = module.reduce(fine) + resized(u, fine), module.reduce(x)
    assert_close(module(x, upper, fine), module.project(torch.cat([first, module.blocks[0](first, u, other)], 1)))
    with pytest.raises(ValueError, match=says("fine … concat")):
        layer(wiring="concat")(x, upper, fine)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=says("wiring … attention … concat … add … 'sum'")):
        pst.PST(8, 12, 64, wiring="sum")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=says("upsample … bilinear … dysample … 'nearest'")):
        pst.PST(8, 12, 64, upsample="nearest")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=says("dysample … multiple of 4 … 14")):
        pst.PST(8, 14, 64, wiring="concat", upsample="dysample")


# --------------------------------------------------------------------------------------------------------- the pyramid


@wirings
@pytest.mark.parametrize("upsample", ["bilinear", "dysample"])
def test_a_pyramid_wires_every_level_at_any_size(wiring, upsample):
    options = {"wiring": wiring, "upsample": upsample, "bottom_up": True, "max_tokens": 6}
    model = pst.PSTPyramid([8, 12, 16], 32, head_dim=8, **options)
    levels = [torch.randn(2, c, *s) for c, s in zip((8, 12, 16), ((13, 9), (7, 5), (3, 4)), strict=True)]
    out = model(levels)
    assert [tuple(y.shape) for y in out] == [(2, 32, 13, 9), (2, 32, 7, 5), (2, 32, 3, 4)]
    torch.stack([y.square().sum() for y in out]).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all((a.upsampling is not None) == (upsample == "dysample") for a in attention_layers(model).values())


def test_a_pickle_of_before_is_loaded(tmp_path):
    """Layers that were pickled when they had `aligned` and nothing of wiring or resizing."""
    for aligned in (False, True):
        module, (x, upper) = layer(aligned=aligned), maps()
        expected = module(x, upper)
        del module.wiring, module.upsampling
        module.aligned = aligned
        for attention in attention_layers(module).values():
            del attention.upsampling
        path = Path(tmp_path, "layer.pickle")
        path.write_bytes(pickle.dumps(module))
        assert torch.equal(pickle.loads(path.read_bytes())(x, upper), expected)


# ------------------------------------------------------------------------------------------------------------- exports


@pytest.mark.parametrize("wiring", ["concat", "add"])
def test_an_onnx_file_of_opset_17_runs_at_other_sizes(wiring, tmp_path):
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    module: Any = filled(pst.PST(8, 12, 32, head_dim=8, wiring=wiring, upsample="dysample")).eval()
    traced = [t.float() for t in maps((12, 8), (6, 4))]
    path = to_onnx(module, traced, tmp_path / "layer.onnx", opset=17, dynamic=True)
    assert {each.version for each in onnx.load(path).opset_import if each.domain in ("", "ai.onnx")} == {17}
    others = [tuple(t.float() for t in maps(*sizes)) for sizes in (((12, 8), (6, 4)), ((10, 22), (5, 11)))]
    gap = compare(module, load(path, threads=1), others)
    assert gap.max < 1e-5 * max(gap.scale, 1)
