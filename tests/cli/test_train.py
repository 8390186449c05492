"""`pst train`, and `pst val` and `pst predict` of what it trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pst.cli import main
from pst.train import load_config, loop
from train_runs import TASKS, settings, stopping

COUNT = {"classify": 6, "detect": 4, "segment": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One short run of each task, trained through the command line."""
    folders = {}
    for task in TASKS:
        root = tmp_path_factory.mktemp(task)
        file = root / "settings.yaml"
        file.write_text(yaml.safe_dump(settings(task, root)))
        assert main(["train", task, "--config", str(file), "epochs=1", "max_steps=2"]) == 0
        folders[task] = root / "run"
    return folders


def test_overrides_and_switches_reach_the_run(runs):
    saved = yaml.safe_load((runs["classify"] / "config.yaml").read_text())
    assert (saved["epochs"], saved["max_steps"], saved["skip_corrupt"]) == (1, 2, False)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "classify", "data=d", "epoch=1"], "unknown key 'epoch' for classify: did you mean 'epochs'?"),
        (
            ["train", "detect", "data=none"],
            "there is nothing at none: give the folder of a data set, with data.yaml in it, or",
        ),
        (
            ["train", "classify", "data=none"],
            "there is nothing at none: give the folder of a data set, with train/CLASS/",
        ),
        (
            ["train", "segment", "data=none"],
            "there is nothing at none: give the folder of a data set, with classes.txt",
        ),
        (
            ["train", "segment", "out=none", "--resume"],
            "there is no run to resume in none: check out=…, or give data=…",
        ),
        (["train", "segment"], "'data' is missing"),
        (["val", "--model", "none.safetensors"], "none.safetensors"),
        (["predict", "--model", "none.safetensors", "a.png"], "none.safetensors"),
        (["predict", "--model", "best.pt", "a.png"], "pst yolo predict model=best.pt source=a.png"),
        (["val", "--model", "best.onnx", "--data", "d.yaml"], "exported files run with pst yolo val"),
        (["export", "--model", "."], ". is a folder: expected a .pt"),
        (["val", "--model", "."], ". is not a run folder of pst train, since it has no best.safetensors: give a run"),
        (["predict", "--model", ".", "a.png"], ". is not a run folder of pst train, since it has no best.safetensors"),
    ],
)
def test_a_mistake_is_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("pst: error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("last", "end"), [(False, "--resume\n"), (True, "--resume, or give run/last.safetensors\n")])
def test_a_run_that_was_not_validated_yet_is_said_to_be_one(last, end, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    if last:
        (tmp_path / "run" / "last.safetensors").touch()
    assert main(["val", "--model", "run"]) == 2
    wanted = "run is a run that was not validated yet, and has no best.safetensors: go on with it, pst train … "
    assert capsys.readouterr().err == f"pst: error: {wanted}{end}"


def test_resume_takes_the_settings_of_the_run_where_none_are_given(runs, capsys, caplog):
    out = f"out={runs['detect']}"
    assert main(["train", "detect", out, "workers=0", "--resume"]) == 0
    assert f"Written: {runs['detect']}" in capsys.readouterr().out
    assert "the run is finished already: 2 steps are done" in caplog.text
    assert main(["train", "detect", out, "lr=1", "--resume"]) == 2
    assert "was started with lr=0.0005 (now 1.0)" in capsys.readouterr().err
    assert main(["train", "segment", out, "--resume"]) == 2
    assert "the settings are of the task 'detect', wanted 'segment'" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_the_settings_that_are_printed_are_a_config_again(task, tmp_path, capsys):
    assert main(["train", task, "--settings", "lr=0.25"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(printed)
    config = load_config(task, tmp_path / "mine.yaml")
    assert (config.task, config.data, config.lr) == (task, "DATA", 0.25)
    assert {line.partition(":")[0] for line in printed.splitlines() if line[0] != " "} == {*config.resolved()}
    assert main(["train", task, "--settings", "--config", str(tmp_path / "mine.yaml"), "data=d"]) == 0
    assert capsys.readouterr().out == printed.replace("data: DATA", "data: d")


def test_the_settings_of_a_run_are_printed_as_it_saved_them(runs, capsys):
    out = f"out={runs['detect']}"
    assert main(["train", "detect", "--settings", "--resume", out]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load((runs["detect"] / "config.yaml").read_text())


def test_export_says_the_same_of_a_run_and_of_its_weights(runs, capsys):
    said = []
    for model in (runs["classify"], runs["classify"] / "best.safetensors"):
        assert main(["export", "--model", str(model)]) == 2
        said.append(capsys.readouterr().err.replace(str(model), "MODEL"))
    assert said[0] == said[1]
    assert "exported from Python, with pst.export" in said[0]
    assert "docs/train.md" in said[0]


@pytest.mark.parametrize("task", TASKS)
def test_val_sweeps_k(task, runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["val", "--model", str(runs[task]), "--topk", "0,2", "--fusion", "refine", "--out", str(out)]) == 0
    header = capsys.readouterr().out.splitlines()[0].split()
    metric = {"classify": "top1", "detect": "map", "segment": "miou"}[task]
    assert header[:2] == ["fusion", "k"]
    assert {"map": "mAP50-95"}.get(metric, metric) in header
    assert not any(name.startswith("iou_") for name in header)
    result = json.loads((out / "val.json").read_text())
    assert [(row["fusion"], row["topk"]) for row in result["rows"]] == [("none", 0), ("refine", 2)]
    assert all(row["images"] == COUNT[task] and 0 <= row[metric] <= 1 for row in result["rows"])
    assert result["hardware"]["threads"] >= 1
    assert len((out / "val.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("task", TASKS)
def test_predict_writes_a_picture_of_every_image(task, runs, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for i, size in enumerate([(50, 40), (31, 77)]):
        Image.fromarray(np.full((size[1], size[0], 3), 90, dtype=np.uint8)).save(source / f"{i}.png")
    weights, out = runs[task] / "last.safetensors", tmp_path / "out"
    assert (
        main(["predict", "--model", str(weights), str(source), "--out", str(out), "--score", "0", "--topk", "2"]) == 0
    )
    assert "2 pictures" in capsys.readouterr().out
    entries = json.loads((out / "predictions.json").read_text())
    assert [Path(entry["image"]).name for entry in entries] == ["0.png", "1.png"]
    for i, size in enumerate([(50, 40), (31, 77)]):
        with Image.open(out / f"{i}.png") as picture:
            assert picture.width >= size[0]
            assert picture.height >= size[1]
        entry = entries[i]
        if task == "classify":
            assert sum(entry["classes"].values()) == pytest.approx(1, abs=1e-5)
        elif task == "detect":
            assert len(entry["boxes"]) == len(entry["labels"]) == len(entry["scores"])
            assert all(0 <= x <= size[0] for box in entry["boxes"] for x in box[::2])
            assert all(0 <= y <= size[1] for box in entry["boxes"] for y in box[1::2])
        else:
            with Image.open(out / f"{i}.mask.png") as mask:
                assert mask.size == size
                assert int(np.asarray(mask).max()) < 4
            assert sum(entry["shares"].values()) == pytest.approx(1)


def test_predict_refuses_what_it_cannot_do(runs, tmp_path, capsys):
    model = str(runs["classify"])
    assert main(["predict", "--model", model, str(tmp_path / "none.png")]) == 2
    assert "no image or folder at" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"not an image")
    assert main(["predict", "--model", model, str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 2
    assert "a.png" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["predict", "--model", model, str(tmp_path / "empty")]) == 2
    assert "no images in" in capsys.readouterr().err


def test_the_help_needs_no_heavy_import():
    code = (
        "import sys; from pst.cli import build_parser; build_parser();"
        "print(*sorted({'torch', 'timm', 'accelerate', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("content", [b"hi", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_not_sent_to_another_verb(content, tmp_path, capsys):
    file = tmp_path / "text.pt"
    file.write_bytes(content)
    assert main(["predict", "--model", str(file), "a.png"]) == 2
    error = capsys.readouterr().err
    assert f"{file} is damaged or no checkpoint, download or save it again: " in error
    assert "pst yolo" not in error
    torch.save({"weights": torch.ones(2)}, file)
    assert main(["predict", "--model", str(file), "a.png"]) == 2
    assert f"pst yolo predict model={file}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["val", "predict", "export"])
def test_a_run_of_ultralytics_is_answered_with_its_checkpoint(verb, tmp_path, capsys):
    (tmp_path / "weights").mkdir()
    best = tmp_path / "weights" / "best.pt"
    best.touch()
    assert main([verb, "--model", str(tmp_path), *(["a.png"] if verb == "predict" else [])]) == 2
    assert f": give {best}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("batches", "end"),
    [
        (1, " before anything was saved; the same command with --resume starts anew"),
        (2, "; the same command with --resume goes on after step 2, in epoch 1"),
        (3, "; the same command with --resume goes on after epoch 1"),
    ],
)
def test_an_interrupt_says_what_was_saved(batches, end, tmp_path, monkeypatch, capsys):
    def stop():
        raise KeyboardInterrupt

    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings("classify", tmp_path)))
    monkeypatch.setattr(loop, "seed_step", stopping(loop.seed_step, batches, stop))
    assert main(["train", "classify", "--config", str(file), "save_steps=2"]) == 130
    assert capsys.readouterr().err.endswith(f"pst: interrupted{end}\n")
