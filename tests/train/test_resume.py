"""A run goes on with what it was started with, says what changed, and is refused before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import tiny_data
from messages import says
from pst.train import fit, load_config, loop
from pst.train.identity import differences, identify
from pst.train.state import STATE, read_state
from pst.train.tasks import make_task
from train_runs import TASKS, settings, stopping


def config(task, root, **more):
    return load_config(task, overrides=settings(task, root, **more))


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A classification that was stopped after a step of its second epoch."""

    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "seed_step", stopping(loop.seed_step, 4, stop))
        with pytest.raises(KeyboardInterrupt):
            fit(config("classify", tmp_path, save_steps=1))
    return tmp_path


def test_the_time_of_an_epoch_that_was_stopped_counts(stopped, monkeypatch):
    before = read_state(stopped / "run" / STATE)["progress"]["seconds"]
    assert before > 0
    monkeypatch.setattr("pst.train.state.time.perf_counter", lambda: 0.0)
    fit(config("classify", stopped, save_steps=1), resume=True)
    [*_, last] = read_state(stopped / "run" / STATE)["progress"]["history"]
    assert last["seconds"] == round(before, 2)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_refused_resume_writes_nothing(stopped):
    before = contents(stopped / "run")
    with pytest.raises(ValueError, match=says("lr=0.001 (now 0.5): continue it with that, or choose … out=…")):
        fit(config("classify", stopped, save_steps=1, lr=0.5), resume=True)
    with pytest.raises(ValueError, match=says("seed=0 (now 1), lr=0.001 (now 0.5): continue it with those, or")):
        fit(config("classify", stopped, save_steps=1, lr=0.5, seed=1), resume=True)
    assert contents(stopped / "run") == before


def test_who_wants_to_train_longer_is_told_how(stopped):
    last = stopped / "run" / "last.safetensors"
    with pytest.raises(ValueError, match=says(f"epochs=2 (now 3): … with weights={last} and another out=…")):
        fit(config("classify", stopped, save_steps=1, epochs=3), resume=True)
    more = {"weights": str(last), "out": str(stopped / "longer"), "max_steps": 1}
    assert (fit(config("classify", stopped, **more)) / "best.safetensors").is_file()


def test_a_class_that_was_renamed_is_named(stopped):
    for split in ("train", "val"):
        (stopped / "data" / split / "red").rename(stopped / "data" / split / "rose")
    before = contents(stopped / "run")
    with pytest.raises(ValueError, match=r"classes were blue, green, red and are blue, green, rose.*--changed-data"):
        fit(config("classify", stopped, save_steps=1), resume=True)
    assert contents(stopped / "run") == before
    run = fit(config("classify", stopped, save_steps=1), resume=True, changed_data=True)
    assert torch.load(run / STATE, weights_only=True)["data"]["classes"] == ["blue", "green", "rose"]


def test_a_class_more_is_refused_whatever_is_passed(stopped):
    for split in ("train", "val"):
        shutil.copytree(stopped / "data" / split / "red", stopped / "data" / split / "pink")
    with pytest.raises(ValueError, match="a model keeps its classes"):
        fit(config("classify", stopped, save_steps=1), resume=True, changed_data=True)


CHANGES = {
    "gone": lambda train: (train / "red" / "00.png").unlink(),
    "new": lambda train: shutil.copy(train / "red" / "00.png", train / "red" / "zz.png"),
    "of another size": lambda train: (train / "red" / "00.png").write_bytes(
        (train / "red" / "00.png").read_bytes() + b" "
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_files_that_changed_are_named(what, stopped):
    CHANGES[what](stopped / "data" / "train")
    name = "zz" if what == "new" else "00"
    with pytest.raises(ValueError, match=rf"of train images are: 1 {what} \(red/{name}.png\)"):
        fit(config("classify", stopped, save_steps=1), resume=True)
    fit(config("classify", stopped, save_steps=1), resume=True, changed_data=True)


def test_data_that_were_moved_are_the_same(stopped):
    shutil.move(stopped / "data", stopped / "elsewhere" / "data")
    moved = {"data": str(stopped / "elsewhere" / "data"), "save_steps": 1}
    run = fit(
        load_config("classify", overrides={**TASKS["classify"], **moved, "out": str(stopped / "run")}), resume=True
    )
    whole = fit(config("classify", stopped / "whole", save_steps=1))
    one, other = (torch.load(each / STATE, weights_only=True)["model"] for each in (run, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_part_of_what_data_are(task, tmp_path):
    before = identify(make_task(config(task, tmp_path)))
    assert differences(before, identify(make_task(config(task, tmp_path)))) == []
    data = tmp_path / "data"
    if task == "classify":
        (data / "train" / "red" / "00.png").rename(data / "train" / "green" / "00.png")
    elif task == "detect":
        (data / "labels" / "train" / "00.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    else:
        (data / "masks" / "train0.png").write_bytes((data / "masks" / "train0.png").read_bytes() + b" ")
    (change,) = differences(before, identify(make_task(config(task, tmp_path))))
    assert "train" in change
    assert "val" not in change


def test_the_identity_of_coco_data_has_their_masks(tmp_path):
    root = tiny_data.coco(tmp_path / "data")
    mask_rcnn = config("detect", tmp_path, model="mask_rcnn")
    before = identify(make_task(mask_rcnn))
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text.replace('"segmentation": [[', '"segmentation": [[0, 0, '))
    assert differences(before, identify(make_task(mask_rcnn))) == ["labels of train changed"]


def test_a_checkpoint_of_an_earlier_version_goes_on(stopped):
    file = stopped / "run" / STATE
    state = torch.load(file, weights_only=True)
    del state["data"], state["config"]["momentum"]  # which it did not know yet
    torch.save(state, file)
    fit(config("classify", stopped, save_steps=1), resume=True)


DAMAGE = {
    "half": lambda file, _: file.write_bytes(file.read_bytes()[:5000]),
    "empty": lambda file, _: file.write_bytes(b""),
    "text": lambda file, _: file.write_text("hello"),
    "a list": lambda file, _: torch.save([1], file),
    "no progress": lambda file, state: torch.save({**state, "progress": {}}, file),
    "progress of text": lambda file, state: torch.save({**state, "progress": {**state["progress"], "step": "x"}}, file),
    "a negative step": lambda file, state: torch.save({**state, "progress": {**state["progress"], "step": -1}}, file),
    "no model": lambda file, state: torch.save({k: v for k, v in state.items() if k != "model"}, file),
    "another model": lambda file, state: torch.save({**state, "model": {"w": torch.ones(1)}}, file),
    "another optimizer": lambda file, state: torch.save({**state, "optimizer": {"state": {}}}, file),
    "other data": lambda file, state: torch.save({**state, "data": {"classes": 5}}, file),
    "no settings": lambda file, state: torch.save({**state, "config": None}, file),
    "a module": lambda file, state: torch.save({**state, "model": torch.nn.Linear(1, 1)}, file),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named(damage, stopped):
    file = stopped / "run" / STATE
    DAMAGE[damage](file, torch.load(file, weights_only=True))
    before = contents(stopped / "run")
    with pytest.raises(ValueError, match=r"state\.pt") as error:
        fit(config("classify", stopped, save_steps=1), resume=True)
    assert "\n" not in str(error.value)
    assert contents(stopped / "run") == before


def test_starting_weights_are_not_needed_again(stopped):
    run = fit(config("classify", stopped / "second", weights=str(stopped / "run" / "last.safetensors"), epochs=1))
    (stopped / "run" / "last.safetensors").unlink()
    fit(
        config("classify", stopped / "second", weights=str(stopped / "run" / "last.safetensors"), epochs=1), resume=True
    )
    assert (run / "last.safetensors").exists()


def test_what_was_trained_outlives_a_validation_that_fails(tmp_path, monkeypatch):
    whole = fit(config("classify", tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "predict", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(config("classify", tmp_path / "failed"))
    run = tmp_path / "failed" / "run"
    assert torch.load(run / STATE, weights_only=True)["progress"]["step"] == 3
    fit(config("classify", tmp_path / "failed"), resume=True)
    one, other = (torch.load(each / STATE, weights_only=True) for each in (whole, run))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert [row["val_top1"] for row in one["progress"]["history"]] == [
        row["val_top1"] for row in other["progress"]["history"]
    ]


def test_the_last_epoch_is_validated_by_the_next_call_where_it_was_cut_short(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "predict", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(config("classify", tmp_path, max_steps=2))
    run = fit(config("classify", tmp_path, max_steps=2), resume=True)
    progress = torch.load(run / STATE, weights_only=True)["progress"]
    assert (progress["step"], progress["epoch"], len(progress["history"])) == (2, 1, 1)
    assert (run / "best.safetensors").exists()
