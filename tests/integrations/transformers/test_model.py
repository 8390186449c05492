"""Saving, loading in a fresh process, loading plain checkpoints, and files that are wrong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForObjectDetection

import pst
from messages import says
from pst.control import attention_layers
from pst.functional.selection import Nucleus
from pst.integrations.transformers import PSTDFineForObjectDetection, PSTRTDetrForObjectDetection, add_pst
from pst.integrations.transformers.config import PSTDFineConfig
from pst.integrations.transformers.model import MODELS
from tiny_transformers import HOSTS, host_model, images

CLASSES = {kind.host.__name__: kind for kind in MODELS}


def change(folder: Path, **values: Any) -> None:
    """Other values in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def saved(tmp_path) -> Path:
    add_pst(host_model("d_fine")).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", HOSTS)
def test_auto_classes_load_what_was_saved_with_what_was_set_later(name, tmp_path):
    fused = add_pst(host_model(name), levels=[8], topk=1, depth=2)
    first, second = attention_layers(fused).values()
    first.topk, second.topk, second.fusion, second.selection = 5, 3, "refine", Nucleus(0.7)
    pst.set_max_tokens(fused, 4)
    fused.save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(loaded) is type(fused)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(fused).config_class
    assert [layer.settings for layer in attention_layers(loaded).values()] == [first.settings, second.settings]
    assert torch.equal(loaded(images()).logits, fused(images()).logits)


@pytest.mark.parametrize("kind", [PSTDFineForObjectDetection, AutoModelForObjectDetection])
def test_what_is_given_anew_replaces_what_was_set(kind, tmp_path):
    fused = add_pst(host_model("d_fine"), topk=1)
    pst.set_options(fused, topk=5, fusion="refine")
    pst.calibrate(fused, [images(seed=i) for i in range(2)])
    fused.save_pretrained(tmp_path)
    names = list(attention_layers(fused))
    assert len(names) == 2
    other = kind.from_pretrained(tmp_path, pst_options={"topk": 3})
    assert [(layer.topk, layer.fusion) for layer in attention_layers(other).values()] == [(3, "refine")] * 2
    fewer = kind.from_pretrained(tmp_path, pst_levels=[16])
    assert [(name, layer.topk) for name, layer in attention_layers(fewer).items()] == [(names[0], 5)]
    assert all(layer.fine_statistics is not None for layer in attention_layers(fewer).values())


def test_a_fresh_process_loads_it(saved):
    code = (
        "import torch; from transformers import AutoModelForObjectDetection; import pst.integrations.transformers\n"
        "from tiny_transformers import images\n"
        f"model = AutoModelForObjectDetection.from_pretrained({str(saved)!r})\n"
        "torch.save(model(images()).logits, 'logits.pt')"
    )
    path = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(path)!r})\n{code}"],
        cwd=saved, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = PSTDFineForObjectDetection.from_pretrained(saved)
    torch.testing.assert_close(torch.load(saved / "logits.pt"), model(images()).logits)


def test_fine_statistics_are_kept(tmp_path):
    fused = add_pst(host_model("rt_detr"), topk=3)
    pst.calibrate(fused, [images(seed=i) for i in range(2)])
    fused.save_pretrained(tmp_path)
    loaded = PSTRTDetrForObjectDetection.from_pretrained(tmp_path)
    assert torch.equal(loaded(images()).logits, fused(images()).logits)
    pst.uncalibrate(fused)
    assert not torch.equal(loaded(images()).logits, fused(images()).logits)
    fused.save_pretrained(tmp_path)
    assert attention_layers(PSTRTDetrForObjectDetection.from_pretrained(tmp_path)).keys()


@pytest.mark.parametrize("name", HOSTS)
def test_a_plain_checkpoint_starts_pst_as_pst_starts(name, tmp_path, caplog):
    """transformers draws BatchNorm's weights around 0 in these models, and convolutions with another deviation."""
    model = host_model(name)
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "pst"):
        loaded = CLASSES[type(model).__name__].from_pretrained(tmp_path, pst_levels=[16])
    assert "left fresh are model.encoder.fpn_blocks.0" in caplog.text
    assert "fpn_blocks.1" not in caplog.text
    state, plain = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(v, plain[k]) for k, v in state.items() if ".fpn_blocks.0." not in k)
    own, fresh = loaded.model.encoder.fpn_blocks[0].pst.state_dict(), pst.PST(64, 64, 64).state_dict()
    assert own.keys() == fresh.keys()
    for key, value in fresh.items():
        if value.unique().numel() < 2:  # BatchNorm's
            assert torch.equal(own[key], value), key
        elif value.numel() > 200:
            assert own[key].std().item() == pytest.approx(value.std().item(), rel=0.2), key
        else:
            assert 0 < own[key].abs().max() <= 1.5 * value.abs().max(), key


def test_a_model_made_of_a_configuration_starts_pst_as_pst_starts_and_goes_on_to():
    model = PSTRTDetrForObjectDetection(add_pst(host_model("rt_detr")).config)
    before = {k: v.clone() for k, v in model.model.encoder.fpn_blocks[0].state_dict().items()}
    model.init_weights()
    after = model.model.encoder.fpn_blocks[0].state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert before["pst.reduce.bn.weight"].eq(1).all()


def test_other_options_leave_what_they_add_fresh(saved, caplog):
    with caplog.at_level(logging.WARNING, "pst"):
        model = PSTDFineForObjectDetection.from_pretrained(saved, pst_options={"wiring": "concat"},
                                                           ignore_mismatched_sizes=True)  # fmt: skip
    assert "fpn_blocks.0.pst.reduce.conv.weight" in caplog.text
    weight = model.model.encoder.fpn_blocks[0].pst.reduce.conv.weight
    assert weight.shape == (32, 128, 1, 1)
    assert weight.abs().max() <= 1.001 / 128**0.5  # PyTorch's own start of a convolution


def test_loading_keeps_quiet_where_nothing_is_fresh(saved, caplog):
    with caplog.at_level(logging.WARNING, "pst"):
        _, info = PSTDFineForObjectDetection.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"]
    assert caplog.text == ""


def test_another_dtype_and_other_classes(saved):
    model = PSTDFineForObjectDetection.from_pretrained(
        saved, dtype=torch.bfloat16, num_labels=5, ignore_mismatched_sizes=True
    )
    assert all(p.dtype == torch.bfloat16 for p in model.model.encoder.fpn_blocks.parameters())
    assert model(images().bfloat16()).logits.shape == (2, 10, 5)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"pst_levels": [7]}, "levels … [7]"),
        ({"pst_levels": {"8": 1}}, "levels … list"),
        ({"pst_options": {"depth": -1}}, "depth … -1"),
        ({"pst_options": {"depth": 3.5}}, "depth … 3.5"),
        ({"pst_options": {"head_dim": "32"}}, "64 channels … '32'"),
        ({"pst_options": {"conv": "os.system"}}, "no option conv"),
        ({"pst_options": ["topk"]}, "pst_options … mapping"),
        ({"pst_options": {"selection": ["exec", {}]}}, "64 channels … exec"),
        ({"pst_options": {"selection": ["nucleus", {"mass": 0.5, "x": 1}]}}, "64 channels … x"),
        ({"pst_options": {"mlp_ratio": 1e300}}, "64 channels … mlp_ratio"),
        ({"pst_settings": {"model": {"topk": 3}}}, "pst_settings … model"),
        ({"pst_settings": ["topk"]}, "pst_settings"),
        ({"pst_settings": {"model.encoder.fpn_blocks.0.pst.blocks.0.attn": {"topk": "many"}}}, "pst_settings … many"),
        ({"pst_settings": {"model.encoder.fpn_blocks.0.pst.blocks.0.attn": {"impl": "x"}}}, "pst_settings … impl"),
        ({"pst_calibrated": ["model.encoder"]}, "pst_calibrated … model.encoder"),
        ({"pst_calibrated": ["model.encoder.fpn_blocks.0.pst.blocks.0.attn"]}, "lack … fine_statistics"),
        ({"pst_calibrated": 8}, "pst_calibrated … 8"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(values, parts, saved):
    change(saved, **values)
    with pytest.raises((TypeError, ValueError), match=says(parts)):
        PSTDFineForObjectDetection.from_pretrained(saved)


def test_a_configuration_of_far_more_than_its_weights_is_refused(saved):
    change(saved, pst_options={"mlp_ratio": 90_000})
    with pytest.raises(ValueError, match=says("model.safetensors … far more")):
        PSTDFineForObjectDetection.from_pretrained(saved)
    change(saved, pst_options={"depth": 10**9})
    with pytest.raises(ValueError, match=says("model.safetensors … far more")):
        PSTDFineForObjectDetection.from_pretrained(saved)


def test_weights_of_a_part_of_a_layer_are_completed_by_its_own_start(saved, caplog):
    path = saved / "model.safetensors"
    state = load_file(path)
    lost = "model.encoder.fpn_blocks.1.pst.blocks.0.attn.q.bn.weight"
    assert lost in state
    save_file({k: v for k, v in state.items() if k != lost}, path, {"format": "pt"})
    with caplog.at_level(logging.WARNING, "pst"):
        model = PSTDFineForObjectDetection.from_pretrained(saved)
    assert caplog.messages[-1].endswith(f"left fresh are {lost}")
    assert model.state_dict()[lost].eq(1).all()


def test_what_would_not_come_back_is_not_saved(tmp_path):
    def rule(*args: Any) -> Any:
        raise AssertionError

    class Rule:
        select = staticmethod(rule)

    fused = add_pst(host_model("d_fine"))
    pst.set_selection(fused, Rule())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=says("JSON … selection rule")):
        fused.save_pretrained(tmp_path)
    pst.set_selection(fused, "mean")
    pst.fuse(fused)
    with pytest.raises(ValueError, match=says("fused … save it before pst.fuse")):
        fused.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_configuration_of_ones_own():
    config = PSTDFineConfig(**{**host_model("d_fine").config.to_dict(), "pst_options": {"topk": 2, "max_tokens": 4}})
    model = PSTDFineForObjectDetection(config)
    assert {(layer.topk, layer.settings.max_tokens) for layer in attention_layers(model).values()} == {(2, 4)}
    with pytest.raises(ValueError, match=says("no option topc")):
        PSTDFineConfig(pst_options={"topc": 2})
