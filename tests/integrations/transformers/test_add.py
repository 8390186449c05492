"""`add_pst`: what it changes, what it keeps, and what it refuses."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import DFineForObjectDetection

import pst
from messages import says
from pst.control import attention_layers
from pst.functional.selection import Window
from pst.integrations.transformers import add_pst
from pst.integrations.transformers.fusion import TopDownPST, fused_blocks
from tiny_transformers import HOSTS, WIDTH, host_model, images


@pytest.mark.parametrize("name", HOSTS)
def test_all_other_weights_are_kept_and_pst_takes_part(name):
    model = host_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = add_pst(model)
    after = fused.state_dict()
    blocks = ("model.encoder.fpn_blocks.0.", "model.encoder.fpn_blocks.1.")
    kept = {key for key in before if not key.startswith(blocks)}
    assert kept == {key for key in after if not key.startswith(blocks)}
    assert all(torch.equal(after[key], before[key]) for key in kept)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert isinstance(fused, type(model))
    assert fused.loss_type == model.loss_type
    assert list(fused_blocks(fused)) == [key[:-1] for key in blocks]
    x = images()
    out, plain = fused(x), model(x)
    assert out.logits.shape == plain.logits.shape == (2, 10, 3)
    assert not torch.allclose(out.logits, plain.logits)
    with pst.use_topk(fused, 2):
        assert not torch.equal(fused(x).logits, out.logits)
    assert torch.equal(fused(x).logits, out.logits)


def test_the_other_blocks_of_the_encoder_stay():
    model = host_model("d_fine")
    fused = add_pst(model, levels=[16], depth=2, topk=3)
    assert isinstance(fused.model.encoder.fpn_blocks[0], TopDownPST)
    assert type(fused.model.encoder.fpn_blocks[1]) is type(model.model.encoder.fpn_blocks[1])
    assert [layer.topk for layer in attention_layers(fused).values()] == [3, 3]
    assert fused.config.pst_levels == [16]
    same = fused.model.encoder.fpn_blocks[1].state_dict()
    assert all(torch.equal(v, same[k]) for k, v in model.model.encoder.fpn_blocks[1].state_dict().items())


def test_modes_dtype_and_what_learns_are_kept():
    model = host_model("rt_detr").to(torch.float64).train()
    model.model.backbone.eval()
    for p in model.model.parameters():
        p.requires_grad_(False)
    fused = add_pst(model)
    assert all(p.dtype == torch.float64 for p in fused.parameters())
    modes = {key: m.training for key, m in fused.named_modules()}
    assert all(modes[key] == m.training for key, m in model.named_modules() if key in modes)
    block = fused.model.encoder.fpn_blocks[0]
    assert all(m.training for m in block.modules())
    learns = {key for key, p in fused.named_parameters() if p.requires_grad}
    own = {f"{prefix}.{key}" for prefix, b in fused_blocks(fused).items() for key, _ in b.named_parameters()}
    assert learns == own | {key for key, p in model.named_parameters() if p.requires_grad}
    assert not add_pst(model.eval()).model.encoder.fpn_blocks[0].pst.training


def test_what_is_fresh_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        add_pst(host_model("rt_detr_v2"), levels=[8])
    assert "left fresh are model.encoder.fpn_blocks.1" in caplog.text
    assert "fpn_blocks.0" not in caplog.text


def test_a_model_on_the_meta_device_stays_there():
    fused = add_pst(host_model("d_fine").to("meta"))
    assert all(p.is_meta for p in fused.parameters())


def test_a_rule_with_settings_of_its_own_is_set():
    fused = add_pst(host_model("rt_detr"), selection=Window(grid=2))
    assert {layer.selection for layer in attention_layers(fused).values()} == {Window(grid=2)}


def test_how_attention_is_computed_is_kept():
    model = host_model("rt_detr")
    model.set_attn_implementation("eager")
    out = add_pst(model)(images(), output_attentions=True, output_hidden_states=True)
    assert len(out.encoder_attentions) == 1
    assert out.decoder_attentions[0].shape == (2, 2, 10, 10)


@pytest.mark.parametrize(
    ("options", "kind", "parts"),
    [
        ({"levels": [4]}, ValueError, "levels … [16, 8] … [4]"),
        ({"levels": []}, ValueError, "levels … [16, 8] … []"),
        ({"levels": 8}, TypeError, "levels … list … 8"),
        ({"levels": [True]}, TypeError, "levels … list … True"),
        ({"levels": "8"}, TypeError, "levels … list … '8'"),
        ({"topc": 8}, ValueError, "no option topc … topk"),
        ({"conv": None}, ValueError, "no option conv"),
        ({"topk": -1}, ValueError, "topk … -1"),
        ({"depth": 0}, ValueError, "depth … 0"),
        ({"depth": "2"}, ValueError, "depth … '2'"),
        ({"expansion": 0.75}, ValueError, "64 channels … multiple of head_dim=32"),
        ({"mlp_ratio": float("nan")}, ValueError, "64 channels … nan"),
        ({"selection": "best"}, ValueError, "selection … 'best'"),
        ({"selection": 3}, TypeError, "selection … 3"),
        ({"wiring": ["add"]}, ValueError, "64 channels … wiring"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(options, kind, parts, monkeypatch):
    model = host_model("d_fine")
    monkeypatch.setattr(DFineForObjectDetection, "__deepcopy__", pytest.fail, raising=False)
    with pytest.raises(kind, match=says(parts)):
        add_pst(model, **options)
    assert model.config.model_type == "d_fine"


def test_a_width_that_pst_cannot_have_is_refused():
    model = host_model("d_fine", encoder_hidden_dim=48, d_model=48, decoder_in_channels=[48] * 3)
    with pytest.raises(ValueError, match=says("48 channels … multiple of head_dim=32")):
        add_pst(model)
    assert add_pst(model, head_dim=8)(images()).logits.shape == (2, 10, 3)


@pytest.mark.parametrize("model", [torch.nn.Conv2d(3, 8, 1), None, "facebook/detr"])
def test_other_models_are_refused(model):
    with pytest.raises(
        TypeError, match=says(f"RTDetrForObjectDetection … DFineForObjectDetection … {type(model).__name__}")
    ):
        add_pst(model)


def test_parts_subclasses_and_models_with_pst_are_refused():
    class Mine(DFineForObjectDetection):
        """With a forward of its own, perhaps."""

    model = host_model("d_fine")
    with pytest.raises(TypeError, match=says("add_pst … DFineModel")):
        add_pst(model.model)
    with pytest.raises(TypeError, match=says("add_pst … Mine")):
        add_pst(Mine(model.config))
    with pytest.raises(TypeError, match=says("has PST already")):
        add_pst(add_pst(model))


def test_width_is_the_encoders():
    assert add_pst(host_model("d_fine")).model.encoder.fpn_blocks[0].pst.out_channels == WIDTH
