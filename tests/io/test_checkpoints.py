"""State dicts in the authors' names and ours, and safetensors files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import golden
import pst
from messages import says
from pst.io.checkpoints import from_authors, load_safetensors, save_safetensors, to_authors

PREFIXES = ["", "model.11.", "neck.levels.0."]


def under(prefix: str, state: dict) -> dict:
    return {prefix + key: t for key, t in state.items()}


def layer_state(depth: int = 2) -> dict:
    return dict(pst.PST(8, 12, 32, head_dim=8, depth=depth).state_dict())


def equal(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("model", golden.index()["state_dict"])
def test_names_and_shapes_are_the_authors(model):
    shapes = golden.index()["state_dict"][model]
    rows = sorted({key.partition("cvup.")[0] for key in shapes if "cvup." in key})
    assert rows
    for row in rows:
        theirs = {key: shape for key, shape in shapes.items() if key.startswith(row)}
        width, in_channels = theirs[f"{row}cv1.conv.weight"][:2]
        layer = pst.PST(
            in_channels,
            theirs[f"{row}cvup.conv.weight"][1],
            out_channels := theirs[f"{row}cv2.conv.weight"][0],
            depth=theirs[f"{row}cv2.conv.weight"][1] // width - 1,
            expansion=width / out_channels,
        )
        ours = to_authors(under(row, layer.state_dict()))
        assert {key: list(t.shape) for key, t in ours.items()} == theirs


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("depth", [1, 12])
def test_round_trip_under_any_prefix(prefix, depth):
    ours = under(prefix, layer_state(depth))
    theirs = to_authors(ours)
    assert all(key.startswith(prefix) for key in theirs)
    assert not set(ours) & set(theirs)
    assert equal(from_authors(theirs), ours)
    assert equal(to_authors(from_authors(theirs)), theirs)


def test_every_layer_of_a_model_is_renamed_and_nothing_else_is():
    others = {
        f"{prefix}{name}": torch.randn(2)
        for prefix in ("model.2.", "model.1.", "head.", "")
        for name in ("cv1.conv.weight", "cv2.bn.bias", "m.0.cv1.conv.weight", "reduce.weight", "project.bias")
    } | {
        "cvup_scale": torch.ones(1),
        "model.3.my_cvup.conv.weight": torch.ones(1),
        "blocks.0.attn.gate.bias": torch.ones(1),
    }
    ours = under("model.11.", layer_state()) | others | under("model.14.", layer_state())
    theirs = to_authors(ours)
    assert all(theirs[key] is others[key] for key in others)
    assert {key for key in theirs if key.startswith("model.1") and key not in others} == {
        *under("model.11.", to_authors(layer_state())),
        *under("model.14.", to_authors(layer_state())),
    }
    back = from_authors(theirs)
    assert equal(back, ours)
    assert all(back[key] is others[key] for key in others)


def test_what_has_no_pst_layer_or_is_ours_already_stays_as_it_is():
    plain = dict(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).state_dict())
    assert equal(from_authors(plain), plain)
    assert equal(to_authors(plain), plain)
    ours = layer_state()
    assert equal(from_authors(ours), ours)


def test_tensors_are_shared_and_the_gate_is_a_convolution_there():
    ours = layer_state()
    theirs = to_authors(ours)
    assert theirs["cv1.conv.weight"] is ours["reduce.conv.weight"]
    weight = theirs["attnlayer_0.attn.gate_conv1d.weight"]
    assert weight.shape == (8, 16, 1)
    assert weight.data_ptr() == ours["blocks.0.attn.gate.weight"].data_ptr()


def test_a_layer_without_gate_is_renamed_too():
    ours = dict(pst.PST(8, 12, 32, head_dim=8, fusion="refine").state_dict())
    theirs = to_authors(ours)
    assert not any("gate" in key for key in theirs)
    assert equal(from_authors(theirs), ours)


# ------------------------------------------------------------------------------------------------------------ files


def test_files_keep_every_bit_and_the_metadata(tmp_path):
    state = layer_state() | {"half": torch.randn(3).half(), "strided": torch.randn(4, 3).T, "scalar": torch.tensor(7)}
    save_safetensors(state, tmp_path / "a.safetensors", {"topk": "8", "names": "ä"})
    loaded, metadata = load_safetensors(str(tmp_path / "a.safetensors"))
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[key], t) and loaded[key].dtype == t.dtype for key, t in state.items())
    assert metadata == {"topk": "8", "names": "ä"}
    pst.PST(8, 12, 32, head_dim=8, depth=2).load_state_dict({k: loaded[k] for k in layer_state()})


def test_shared_and_trained_tensors_may_be_saved(tmp_path):
    weight = nn.Parameter(torch.randn(4))
    save_safetensors({"a": weight, "b": weight, "view": weight[:2]}, tmp_path / "a.safetensors", {})
    loaded, metadata = load_safetensors(tmp_path / "a.safetensors")
    assert torch.equal(loaded["a"], weight)
    assert torch.equal(loaded["b"], weight)
    assert torch.equal(loaded["view"], weight[:2])
    assert metadata == {}


def test_saving_replaces_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    for value in (1.0, 2.0):
        save_safetensors({"w": torch.tensor(value)}, path, {})
    assert load_safetensors(path)[0]["w"] == 2.0
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    import safetensors.torch

    path = tmp_path / "a.safetensors"
    save_safetensors({"w": torch.tensor(1.0)}, path, {})

    def half_written(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_safetensors({"w": torch.tensor(2.0)}, path, {})
    assert load_safetensors(path)[0]["w"] == 1.0
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("missing.safetensors")):
        load_safetensors(tmp_path / "missing.safetensors")


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save(layer_state(), path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is not a safetensors file: if .* damaged: [^:]*$"):
        load_safetensors(path)
    path = path.rename(tmp_path / "best.pt")
    with pytest.raises(ValueError, match=says("is not a safetensors file: give a .safetensors file, such as")):
        load_safetensors(path)


def test_a_missing_folder_is_refused(tmp_path):
    folder = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=says(f"no folder {folder}")):
        save_safetensors({}, folder / "a.safetensors", {})


@pytest.mark.parametrize("call", [lambda p: save_safetensors({}, p, {}), load_safetensors], ids=["save", "load"])
def test_without_safetensors_it_says_what_to_install(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        call(tmp_path / "a.safetensors")


def test_a_saved_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    save_safetensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors", {})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_safetensors_file_that_may_not_be_read_is_not_called_missing(tmp_path, monkeypatch):
    def refused(path: Path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    save_safetensors({"w": torch.ones(1)}, tmp_path / "a.safetensors", {})
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError, match=r"a\.safetensors"):
        load_safetensors(tmp_path / "a.safetensors")
