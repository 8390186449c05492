"""Every reader of weights, on files that are damaged a little: a model, or one sentence that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import fuzz
from pst.train.state import STATE, check_state, read_state

LEGACY = Path(__file__).parents[1] / "legacy"
ANY = (ValueError, FileNotFoundError)


def make_state(root: Path) -> list[Path]:
    from pst.train.config import ClassifyConfig
    from pst.train.state import Progress, write_progress

    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    parts = {"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "scaler": None}
    root.mkdir(parents=True)
    write_progress(root, ClassifyConfig(data="data"), Progress(epoch=1, history=[{"loss": 0.5}]), **parts)
    return [root / STATE]


def read_a_state(root: Path) -> None:
    state = read_state(root / STATE)
    assert check_state(state, root / STATE).epoch >= 0


def make_run(root: Path) -> list[Path]:
    root.mkdir(parents=True)
    return [Path(shutil.copy(LEGACY / "run" / "best.safetensors", root))]


def read_run(root: Path) -> None:
    from pst.train import load_trained

    _, model = load_trained(root)
    assert not model.training


def make_checkpoint(root: Path) -> list[Path]:
    root.mkdir(parents=True)
    return [Path(shutil.copy(LEGACY / "yolo.pt", root))]


def read_yolo(root: Path) -> None:
    from pst.integrations.ultralytics import YOLO

    model = YOLO(root / "yolo.pt").model
    assert isinstance(model, nn.Module)
    assert all(type(p) is nn.Parameter for p in model.parameters())


def make_program(root: Path) -> list[Path]:
    from pst.export import to_pt2

    root.mkdir(parents=True)
    to_pt2(nn.Conv2d(3, 2, 1).eval(), (torch.rand(1, 3, 4, 4),), root / "a.pt2")
    return [root / "a.pt2"]


def read_program(root: Path) -> None:
    from pst.export import load

    assert callable(load(root / "a.pt2"))


def make_hub(root: Path) -> list[Path]:
    from pst.integrations.timm import PSTClassifier

    PSTClassifier("test_resnet", num_classes=2).save_pretrained(root)
    return [root / "config.json", root / "config.json", root / "model.safetensors"]


def read_hub(root: Path) -> None:
    from pst.integrations.timm import PSTClassifier

    PSTClassifier.from_pretrained(root)


TARGETS = {  # and how many tries fit into some seconds
    "state.pt": (fuzz.Target(make_state, read_a_state, ANY), 60),
    "a run's weights": (fuzz.Target(make_run, read_run, ANY), 40),
    "a checkpoint of Ultralytics": (fuzz.Target(make_checkpoint, read_yolo, ANY), 40),
    "pt2": (fuzz.Target(make_program, read_program, ANY), 30),
    "a folder of the Hub": (fuzz.Target(make_hub, read_hub, ANY), 30),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_damaged_weights_are_read_or_refused_in_one_sentence(tmp_path, name, times):
    if name != "pt2":  # which needs torch alone
        library = "ultralytics" if name == "a checkpoint of Ultralytics" else "timm"
        pytest.importorskip(library, reason=f"{library}, which reads {name}, is not installed")
    target, tries = TARGETS[name]
    assert fuzz.run(target, tmp_path / "set", tries=times * tries, name=name) > 0  # the damage is real
