"""`pst reproduce`: the recipe, the search for the data, the command, resumption and the table."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pst.cli import main
from pst.cli import reproduce as verb

PST = Path(sys.executable).with_name("pst")
reproduce = pytest.importorskip("pst.integrations.ultralytics.reproduce", reason="the ultralytics extra is missing")
adapter = pytest.importorskip("pst.integrations.ultralytics", reason="the ultralytics extra is missing")


@pytest.fixture(autouse=True)
def nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a download")

    adapter.register()  # now, or it would take the stand-ins for the functions of the host
    monkeypatch.setattr(reproduce.host_data, "check_det_dataset", refuse)
    monkeypatch.setattr(reproduce.host_data, "check_cls_dataset", refuse)
    monkeypatch.setattr(reproduce.dataset, "DATASETS_DIR", tmp_path / "datasets")


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that would have run."""
    ran: list[list[str]] = []
    monkeypatch.setattr(verb.yolo, "run", lambda args: ran.append(args.passed_on))
    return ran


def make_boxes(root: Path) -> Path:
    """A dataset YAML of two images for each split, named by a text file as COCO's are."""
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (64, 64), "gray").save(root / "images" / split / f"{i}.png")
            (root / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        (root / f"{split}.txt").write_text("".join(f"./images/{split}/{i}.png\n" for i in range(2)))
    data = root / "boxes.yaml"
    data.write_text(f"path: {root}\ntrain: train.txt\nval: val.txt\nnames: {{0: box}}\n")
    return data


def make_classes(root: Path, classes: int = 1000) -> Path:
    for split in ("train", "val"):
        for i in range(classes):
            (root / split / f"n{i:08}").mkdir(parents=True)
            (root / split / f"n{i:08}" / "0.jpg").touch()
    return root


def arguments(line: str) -> dict[str, str]:
    return dict(item.split("=", 1) for item in line.split() if "=" in item)


@pytest.mark.parametrize(
    ("scale", "augmentation"),
    [("n", (0.5, 0.0, 0.1)), ("s", (0.9, 0.05, 0.15)), ("m", (0.9, 0.15, 0.4))],
)
def test_dry_run_prints_the_recipe_for_coco(
    scale: str, augmentation: tuple[float, ...], tmp_path: Path, capsys
) -> None:
    assert main(["reproduce", "coco", "--scale", scale, "--dry-run", "--out", str(tmp_path)]) == 0
    command, *rest = capsys.readouterr().out.splitlines()
    assert command.startswith(f"Command: pst yolo detect train model=yolo11{scale}-pst.yaml ")
    got = arguments(command)
    assert (got["epochs"], got["optimizer"], got["batch"]) == ("600", "SGD", "128")
    assert tuple(float(got[name]) for name in ("scale", "mixup", "copy_paste")) == augmentation
    assert "Data: coco.yaml is not complete: no " in rest[0]
    assert f"the paper: {verb._gain({'n': 0.9, 's': 0.5, 'm': 0.4}[scale])}" in rest[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", verb._MODELS)
def test_dry_run_prints_the_recipe_for_imagenet(model: str, tmp_path: Path, capsys) -> None:
    assert main(["reproduce", "imagenet", "--model", model, "--dry-run", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Command: pst yolo classify train model={model}-cls-pst.yaml ")
    got = arguments(out.splitlines()[0])
    assert (got["epochs"], got["optimizer"], got["lr0"], got["batch"]) == ("200", "SGD", "0.2", "256")
    gain = {"resnet18": "+6.5", "resnet50": "+1.7", "resnet101": "+1.0"}.get(model, "–")
    assert out.endswith(f"the paper: {gain}\n")


def test_choices_are_those_of_the_recipes() -> None:
    assert verb._SCALES == reproduce.COCO_SCALES
    assert verb._MODELS == reproduce.IMAGENET_MODELS


def test_every_recipe_trains_a_bundled_model_with_arguments_that_the_host_knows() -> None:
    from ultralytics.cfg import get_cfg

    from pst.integrations.ultralytics import model_zoo

    bundled = {model.name for model in model_zoo()}
    for recipe in [*map(reproduce.coco, verb._SCALES), *map(reproduce.imagenet, verb._MODELS)]:
        assert recipe.model in bundled
        known = vars(get_cfg(overrides=recipe.args))
        assert recipe.args == {name: known[name] for name in recipe.args}


def test_missing_data_stops_before_anything_starts(trainings: list, tmp_path: Path, capsys) -> None:
    assert main(["reproduce", "coco", "--scale", "n", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"pst: error: coco.yaml is not complete: no {tmp_path / 'datasets' / 'coco' / 'train2017.txt'}"
    )
    assert "--data" in error
    assert "--download" in error
    assert trainings == []
    assert not (tmp_path / "out").exists()


def remove_image(root: Path) -> str:
    (root / "images" / "train" / "1.png").unlink()
    return "1 of 2 train images are not there: .*1.png"


def remove_labels(root: Path) -> str:
    shutil.rmtree(root / "labels" / "val")
    return "no val image has a label: no .*0.txt"


def empty_list(root: Path) -> str:
    (root / "train.txt").write_text("")
    return "no train image has a label"


@pytest.mark.parametrize("damage", [remove_image, remove_labels, empty_list])
def test_incomplete_detection_data_is_named(damage: Callable[[Path], str], tmp_path: Path) -> None:
    data = make_boxes(tmp_path)
    assert reproduce.check_data(reproduce.coco("n"), str(data)).endswith("2 train images, 2 val images")
    with pytest.raises(FileNotFoundError, match=damage(tmp_path)):
        reproduce.check_data(reproduce.coco("n"), str(data))


def test_incomplete_classification_data_is_named(tmp_path: Path) -> None:
    recipe = reproduce.imagenet("resnet18")
    with pytest.raises(FileNotFoundError, match=r"no folder .*train"):
        reproduce.check_data(recipe, str(tmp_path))
    make_classes(tmp_path)
    assert reproduce.check_data(recipe, str(tmp_path)).endswith("1,000 train images, 1,000 val images")
    (tmp_path / "val" / "n00000007" / "0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 empty class folders, e\.g\. .*n00000007"):
        reproduce.check_data(recipe, str(tmp_path))
    (tmp_path / "val" / "n00000007").rmdir()
    with pytest.raises(FileNotFoundError, match="has 999 class folders, not 1000"):
        reproduce.check_data(recipe, str(tmp_path))


def test_download_is_the_hosts_and_only_when_told(
    monkeypatch: pytest.MonkeyPatch, trainings: list, tmp_path: Path
) -> None:
    asked: list[str] = []

    def fetch(dataset: str, autodownload: bool = True) -> None:
        asked.append(dataset)
        make_boxes(tmp_path / "datasets" / "coco").rename(tmp_path / "elsewhere.yaml")
        for split in ("train", "val"):
            (tmp_path / "datasets" / "coco" / f"{split}.txt").rename(
                tmp_path / "datasets" / "coco" / f"{split}2017.txt"
            )

    monkeypatch.setattr(reproduce.host_data, "check_det_dataset", fetch)
    monkeypatch.setattr(verb, "_evaluate", lambda *args: None)
    monkeypatch.setattr(verb, "_table", lambda *args: "table")
    argv = ["reproduce", "coco", "--scale", "n", "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert asked == []
    assert main([*argv, "--download"]) == 0
    assert main([*argv, "--download"]) == 0
    assert asked == ["coco.yaml"]
    assert len(trainings) == 2


def save_last(folder: Path, epoch: int, epochs: int = 600) -> Path:
    (folder / "weights").mkdir(parents=True)
    last = folder / "weights" / "last.pt"
    torch.save({"epoch": epoch, "train_args": {"epochs": epochs}}, last)
    return last


def test_an_interrupted_training_is_resumed(trainings: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verb, "_evaluate", lambda *args: None)
    monkeypatch.setattr(verb, "_table", lambda *args: "table")
    data = make_boxes(tmp_path / "data")
    last = save_last(tmp_path / "out" / "coco-yolo11n-pst", 41)
    assert reproduce.epochs_done(last) == (42, 600)
    argv = ["reproduce", "coco", "--scale", "n", "--data", str(data), "--out", str(tmp_path / "out"), "--device", "0,1"]
    assert main([*argv, "workers=3"]) == 0
    expected = {"model": str(last), "resume": "True", "data": str(data), "save_dir": str(last.parents[1])}
    assert arguments(" ".join(trainings[0])) == {**expected, "device": "0,1", "workers": "3"}


def test_a_checkpoint_that_a_kill_cut_off_is_named_before_training(trainings: list, tmp_path: Path, capsys) -> None:
    data = make_boxes(tmp_path / "data")
    last = save_last(tmp_path / "out" / "coco-yolo11n-pst", 41)
    last.write_bytes(last.read_bytes()[:-100])
    argv = ["reproduce", "coco", "--scale", "n", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert f"{last} is damaged" in error
    assert "copy best.pt" in error
    assert trainings == []


@pytest.mark.parametrize("epoch", [-1, 599])  # as Ultralytics marks the end, and killed between the end and that
def test_a_finished_training_is_not_started_again(
    epoch: int, trainings: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(verb, "_evaluate", lambda *args: None)
    monkeypatch.setattr(verb, "_table", lambda *args: "table")
    save_last(tmp_path / "out" / "coco-yolo11n-pst", epoch)
    argv = ["--data", str(make_boxes(tmp_path / "data")), "--out", str(tmp_path / "out")]
    assert main(["reproduce", "coco", "--scale", "n", *argv]) == 0
    assert trainings == []


def write_figures(out: Path, name: str, *figures: tuple[Any, Any, float]) -> None:
    (out / name).mkdir()
    rows = [dict(zip(("topk", "fusion", "value"), figure, strict=True)) for figure in figures]
    (out / name / "reproduce.json").write_text(json.dumps({"figures": rows}))


def test_table_puts_the_measured_gain_beside_the_papers(tmp_path: Path) -> None:
    recipe = reproduce.coco("n")
    write_figures(tmp_path, "coco-yolo11n-pst", (0, None, 0.403), (8, "gate", 0.405))
    table = verb._table(recipe, tmp_path)
    assert table.splitlines()[2].split() == ["coco-yolo11n-pst", "0", "40.30", "–", "+0.9"]
    assert table.endswith("No gain without coco-yolo11n: --baseline")
    write_figures(tmp_path, "coco-yolo11n", (None, None, 0.394))
    rows = [line.split() for line in verb._table(recipe, tmp_path).splitlines()]
    assert rows[2:] == [
        ["coco-yolo11n", "39.40"],
        ["coco-yolo11n-pst", "0", "40.30", "+0.90", "+0.9"],
        ["coco-yolo11n-pst", "8", "gate", "40.50", "+1.10", "+0.9"],
    ]


def test_malformed_extra_argument_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["reproduce", "coco", "--scale", "n", "epochs"])
    assert "expected ARG=VALUE, e.g. workers=16, got 'epochs'" in capsys.readouterr().err


def small_run(data: Path, folder: Path, *args: str, epochs: int) -> list[str]:
    argv = [PST, "reproduce", "coco", "--scale", "n", "--data", data, "--out", folder / "out", "--device", "cpu", *args]
    small = {"epochs": epochs, "imgsz": 64, "batch": 2, "workers": 0, "plots": False, "amp": False}
    return [*map(str, argv), *(f"{key}={value}" for key, value in small.items())]


@pytest.mark.slow
def test_from_data_to_table(tmp_path: Path) -> None:
    """Real trainings, one epoch long, with the installed command: the model, its baseline, and again."""
    data = make_boxes(tmp_path / "data")

    def pst(*args: str) -> str:
        command = small_run(data, tmp_path, *args, epochs=1)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "No gain without coco-yolo11n" in pst()
    assert "coco-yolo11n " in pst("--baseline").splitlines()[-1]
    again = pst()
    assert "Trained already" in again
    header, _, baseline, *rows = again.splitlines()[-6:]
    assert header.split() == ["training", "k", "fusion", "mAP50-95", "%", "gain", "gain", "in", "the", "paper"]
    figures = [row.split()[1:-3] for row in rows]
    assert figures == [["0"], ["8", "gate"], ["8", "refine"]]
    assert all(0 <= float(row.split()[-3]) <= 100 for row in rows)
    assert len(baseline.split()) == 2
    result = json.loads((tmp_path / "out" / "coco-yolo11n-pst" / "reproduce.json").read_text())
    assert {"epochs": 600, "batch": 128}.items() <= result["args"].items()


@pytest.mark.slow
def test_the_same_command_again_goes_on_after_a_kill(tmp_path: Path) -> None:
    command = small_run(make_boxes(tmp_path / "data"), tmp_path, epochs=20)
    last = tmp_path / "out" / "coco-yolo11n-pst" / "weights" / "last.pt"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not whole(last):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    done, epochs = reproduce.epochs_done(last)
    assert done < epochs == 20
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert again.returncode == 0, again.stderr
    assert "resume=True" in again.stdout.splitlines()[0]
    with (last.parents[1] / "results.csv").open() as file:
        seen = [int(row["epoch"]) for row in csv.DictReader(file)]
    # Ultralytics writes an epoch's row before its checkpoint: killed in between, that epoch is run and written again.
    every = list(range(1, 21))
    assert seen in (every, sorted([*every, done + 1]))


def whole(last: Path) -> bool:
    """Whether the checkpoint is there and its last byte written."""
    try:
        return reproduce.epochs_done(last)[0] > 0
    except (OSError, ValueError):
        return False
