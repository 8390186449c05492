"""A run's state is data."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_files import Call, save, write_archive
from pickles import mapping, program, shared_lists, shared_tuples
from pst.io.checkpoints import save_safetensors
from pst.train import fit, load_config, load_trained
from pst.train.state import STATE, Progress, check_state, describe_weights, read_state, read_weights
from train_runs import settings

GOOD: dict[str, Any] = {"config": {"lr": 0.1}, "progress": {"epoch": 2, "history": [{"loss": 0.5}]}, "scaler": None}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    state = {**GOOD, "model": {"w": torch.rand(2, 3)}, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}
    state["optimizer"]["param_groups"] = [{"betas": (0.9, 0.999), "params": [0]}]
    read = read_state(save(state, tmp_path / STATE))
    assert torch.equal(read.pop("model")["w"], state.pop("model")["w"])
    assert read == state


@pytest.mark.parametrize(
    "content",
    [[], 3, {}, {"config": {}}, {"config": [], "progress": {}}, {"config": {}, "progress": {"epoch": 1, "other": 2}},
     {**GOOD, "model": torch.nn.Linear(1, 1)}],
)  # fmt: skip
def test_other_contents_are_one_sentence(content: Any, tmp_path: Path) -> None:
    path = save(content, tmp_path / STATE)
    with pytest.raises(ValueError, match=r"state\.pt is .*; delete it to start the run again"):
        check_state(read_state(path), path)


@pytest.mark.parametrize(
    "change",
    [{"history": [5]}, {"history": {}}, {"history": [{"loss": "x"}]}, {"sums": {"a": "x"}}, {"sums": []}, {"step": -1}],
)
def test_a_position_that_is_none_is_refused(change: dict[str, Any]) -> None:
    parts = {"config": {}, "model": {}, "optimizer": {}, "scaler": None}
    good = asdict(Progress(history=[{"loss": 0.5, "epoch": 1}], sums={"a": 1.0}))
    assert check_state({**parts, "progress": good}, Path(STATE)).history == good["history"]
    with pytest.raises(ValueError, match=r"state\.pt is not a checkpoint of a run; delete it"):
        check_state({**parts, "progress": good | change}, Path(STATE))


def test_hostile_and_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / STATE
    with pytest.raises(ValueError, match=r"state\.pt is not loaded: its pickle names \w+\.mkdir"):
        read_state(save({**GOOD, "model": Call(os.mkdir, str(tmp_path / "written"))}, path))
    assert not (tmp_path / "written").exists()
    for bomb in (shared_lists(60), shared_tuples(60)):
        with pytest.raises(ValueError, match=r"state\.pt is not loaded"):
            read_state(write_archive(path, program(mapping(config=bomb, progress=b"}"))))
    whole = save(GOOD, path).read_bytes()
    for part in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"state\.pt is damaged"):
            read_state(path)


def test_a_file_does_not_decide_on_a_thousand_processes(tmp_path: Path) -> None:
    run = fit(load_config("classify", overrides=settings("classify", tmp_path, max_steps=1)))
    weights, plain, classes = read_weights(run / "last.safetensors")
    settings_of_it = plain | {"workers": 1000, "data": 10**40}  # what it calls its data does not matter to a model
    metadata = {"pst_train": json.dumps({"config": settings_of_it, "classes": classes})}
    save_safetensors(weights, tmp_path / "a.safetensors", metadata)
    task, _ = load_trained(tmp_path / "a.safetensors")
    assert task.config.workers <= (os.cpu_count() or 1)


@pytest.mark.parametrize("change", [{"imgsz": 10**9}, {"batch": None}, {"seed": "x"}])
def test_wrong_settings_of_a_file_name_it(change: dict[str, Any], tmp_path: Path) -> None:
    plain = {"task": "classify", "data": "x", "model": "test_resnet"} | change
    metadata = {"pst_train": json.dumps({"config": plain, "classes": ["a"]})}
    save_safetensors({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match=rf"a\.safetensors is not loaded, .*: {next(iter(change))} must"):
        load_trained(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t * math.nan, "NaN or infinite, e.g. "),
        (lambda t: t + math.inf, "NaN or infinite, e.g. "),
        (lambda t: t.to(torch.int8), r"is torch\.int8, wanted is torch\.float32"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    run = fit(load_config("classify", overrides=settings("classify", tmp_path, max_steps=1)))
    weights, plain, classes = read_weights(run / "last.safetensors")
    name = next(name for name in weights if name.endswith("fc.weight"))
    metadata = {"pst_train": json.dumps({"config": plain, "classes": classes})}
    save_safetensors(weights | {name: change(weights[name])}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match=rf"a\.safetensors.*{message}"):
        load_trained(tmp_path / "a.safetensors")
    again = plain | {
        "data": str(tmp_path / "data"),
        "weights": str(tmp_path / "a.safetensors"),
        "out": str(tmp_path / "b"),
    }
    with pytest.raises(ValueError, match=rf"weights=.*a\.safetensors.*{message}"):
        fit(load_config("classify", overrides={name: value for name, value in again.items() if name != "task"}))
    assert not (tmp_path / "b").exists()


def test_options_of_layers_that_an_earlier_version_took_for_the_models_are_left_out() -> None:
    arguments = {"topk": 8, "drop_rate": 0.2, "backbone_options": {"neck_options": {"max_tokens": 4, "depth": 2}}}
    content = {"config": {"task": "classify", "model_args": arguments}, "classes": ["a"]}
    found, _ = describe_weights({"pst_train": json.dumps(content)}, Path("a"))
    assert found is not None
    assert found["model_args"] == {"drop_rate": 0.2, "backbone_options": {"neck_options": {"depth": 2}}}


@pytest.mark.parametrize("classes", ["ab", ["a", "a"], [1, 2], ["\x1b[2J", "b"], ["\ud800"]])
def test_classes_of_a_file_are_a_list_of_names(classes: Any, tmp_path: Path) -> None:
    content = {"config": {"task": "classify"}, "classes": classes}
    save_safetensors({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"pst_train": json.dumps(content)})
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged"):
        load_trained(tmp_path / "a.safetensors")
