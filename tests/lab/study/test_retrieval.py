"""The synthetic task: what is known of it, its model, and a committed cell run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pst
from lab.study import latency
from lab.study.bootstrap import unpack
from lab.study.cell_process import runner
from lab.study.grid import load_study
from lab.study.result_files import describe
from lab.study.runners import retrieval
from lab.study.runners.retrieval_model import Retriever
from lab.study.runners.retrieval_task import SIDE, Retrieval, Scenes
from lab.study.task import Task

HERE = Path(__file__).parent
STUDY, COMMITTED = HERE / "retrieval.yaml", HERE / "tiny-one-space-stochastic-refine-0.json"
KEY, WIDTH, IMAGES = 24, 4, 60
# Scaling every weight at the start by 1.001 moves no figure of the cell by more than 0.0002: what other machines and
# versions round differently stays far below this, and what the comparisons of the last test tell apart far above.
TOLERANCE = 0.02 if torch.__version__ < "2.9" else 0.01  # PyTorch 2.8 trains one of them to 0.013 less


def draw(seed: int = 0, side: int = SIDE, **settings: Any) -> Scenes:
    options: dict[str, Any] = {"landmarks": 5, "width": WIDTH, **settings}
    return Retrieval(**options).draw(IMAGES, torch.Generator().manual_seed(seed), side)


def parts(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """Own key with code, content and pointer at every position."""
    named = (scenes.maps.shape[1] - WIDTH) // 2
    own, content, pointer = scenes.maps.split([named, WIDTH, named], 1)
    return own, content, pointer


def fetch(at: Tensor, scenes: Scenes) -> Tensor:
    """What a fine map holds where each position points."""
    index = scenes.target.flatten(1)[:, None].expand(-1, at.shape[1], -1)
    return at.flatten(2).gather(2, index).unflatten(2, at.shape[2:])


def spread(coarse: Tensor) -> Tensor:
    """A coarse map at every child."""
    return coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)


def cell_of(scenes: Scenes) -> Tensor:
    """The cell that each position points at."""
    side = scenes.target.shape[-1]
    return scenes.target // side // 2 * (side // 2) + scenes.target % side // 2


@pytest.mark.parametrize("code", ["in-key", "apart", "drawn"])
@pytest.mark.parametrize("side", [SIDE, 3])
def test_every_pointer_names_one_child_whose_content_is_wanted(code, side):
    scenes = draw(code=code, side=side)
    own, content, pointer = parts(scenes)
    assert torch.equal(fetch(own, scenes), pointer)
    assert torch.equal(fetch(content, scenes), scenes.wanted)
    assert scenes.maps.shape == (IMAGES, Retrieval(5, WIDTH, code).channels, 2 * side, 2 * side)
    names = own.flatten(2)[0].T  # of one image: all different, so the pointer is not ambiguous
    assert len(names.unique(dim=0)) == 4 * side * side


def test_pointers_lead_into_the_landmarks_and_never_into_their_own_cell():
    cells = cell_of(draw())
    assert [len(image.unique()) for image in cells] == [5] * IMAGES
    own = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    assert (cells != spread(own[None, None])[0]).all()
    assert len(cell_of(draw(landmarks=SIDE * SIDE)).unique()) == SIDE * SIDE


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.5, 1.0])
def test_an_average_holds_the_shared_part_and_nothing_of_the_detail(shared):
    scenes = draw(shared=shared)
    _, content, _ = parts(scenes)
    common = spread(F.avg_pool2d(content, 2))
    detail = content - common
    assert content.var().item() == pytest.approx(1, abs=0.02)
    assert common.square().mean().item() == pytest.approx(shared, abs=0.03)
    assert detail.square().mean().item() == pytest.approx(1 - shared, abs=0.02)
    torch.testing.assert_close(F.avg_pool2d(detail, 2), torch.zeros(IMAGES, WIDTH, SIDE, SIDE), rtol=0, atol=1e-6)


def test_an_average_holds_nothing_of_a_code_that_stands_apart():
    own, _, _ = parts(draw(code="apart"))
    assert F.avg_pool2d(own[:, KEY:], 2).abs().max() == 0
    assert own[:, KEY:].abs().min() == 1


@pytest.mark.parametrize("code", ["in-key", "drawn"])
def test_an_average_holds_the_key_that_siblings_share(code):
    own, _, _ = parts(draw(code=code))
    torch.testing.assert_close(F.avg_pool2d(own, 2).abs(), torch.ones(IMAGES, KEY, SIDE, SIDE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shared", [0.3, 0.5])
def test_an_oracle_on_averages_reaches_the_ceiling_and_one_on_the_fine_map_all(shared):
    task = Retrieval(16, WIDTH, shared=shared)
    scenes = task.draw(300, torch.Generator().manual_seed(1))
    content = scenes.maps.split([KEY, WIDTH, KEY], 1)[1]
    coarse = 1 - (fetch(spread(F.avg_pool2d(content, 2)), scenes) - scenes.wanted).square().mean()
    assert coarse.item() == pytest.approx(shared, abs=0.02)
    assert 1 - (fetch(content, scenes) - scenes.wanted).square().mean() == 1


def test_scenes_depend_on_the_seed_alone():
    assert all(torch.equal(a, b) for a, b in zip(draw(3), draw(3), strict=True))
    assert not torch.equal(draw(3).maps, draw(4).maps)


def test_with_one_linear_reduction_a_coarse_token_is_the_average_of_its_children():
    maps = draw().maps
    channels = maps.shape[1]
    model = Retriever(channels, WIDTH, upper="pooled", reductions="shared").eval()
    fine, coarse = model.fuse.reduce(maps), model.fuse.reduce_upper(model.upper(maps))
    torch.testing.assert_close(coarse, F.avg_pool2d(fine, 2), rtol=0, atol=1e-5)
    own = Retriever(channels, WIDTH, upper="pooled").eval()
    fine, coarse = own.fuse.reduce(maps), own.fuse.reduce_upper(own.upper(maps))
    assert (coarse - F.avg_pool2d(fine, 2)).abs().max() > 0.1


def test_the_rotated_map_is_the_averages_in_another_space_and_is_not_trained():
    maps = draw().maps
    rotated = Retriever(maps.shape[1], WIDTH, upper="rotated").upper
    pooled, turned = F.avg_pool2d(maps, 2), rotated(maps)
    assert not list(rotated.parameters())
    assert (turned - pooled).abs().max() > 1
    apart = (pooled[0] - pooled[1]).norm(dim=0)
    torch.testing.assert_close((turned[0] - turned[1]).norm(dim=0), apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("upper", ["pooled", "rotated", "learned"])
def test_everything_that_should_learn_has_a_gradient(upper):
    scenes = draw(side=3)
    model = Retriever(scenes.maps.shape[1], WIDTH, upper=upper, upper_channels=24)
    assert model(scenes.maps).shape == scenes.wanted.shape
    pst.set_topk(model, 2)
    model(scenes.maps).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"landmarks": 1}, "landmarks must be from 2 to 64, got 1"),
        ({"landmarks": 65}, "landmarks must be from 2 to 64, got 65"),
        ({"width": 0}, "width must be ≥ 1, got 0"),
        ({"code": "none"}, "code must be one of .*got 'none'"),
        ({"shared": 1.5}, "shared must be a share .*got 1.5"),
    ],
)
def test_a_task_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        draw(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upper": "max"}, "upper must be one of .*got 'max'"),
        ({"upper": "pooled", "reductions": "tied"}, "reductions must be one of .*got 'tied'"),
        ({"upper": "learned", "reductions": "shared"}, "got 52 and 32 channels"),
    ],
)
def test_a_model_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Retriever(52, WIDTH, **settings)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("landmarks: 4, width: 4", "landmark: 4, width: 4", r"data .* has no \['landmark'\]; known are .*'landmarks'"),
        ("landmarks: 4, width: 4", "width: 4", r"data .* needs \['landmarks'\], got \['train', 'width'\]"),
        ("{lr: 0.006, ", "{", r"train .* needs \['lr'\]"),
        ("upper: pooled, ", "", r"models .* needs \['upper'\]"),
        ("fusion: refine, stoch", "fuse: refine, stoch", r"recipes .* has no \['fuse'\]"),
        ("[3, 16, 50]", "[1, 16, 50]", r"phases must be \[side ≥ 2"),
        ("[3, 16, 50]", "[3, 16]", r"phases must be \[side ≥ 2"),
        ("width: 4, ", "width: 0, ", "width must be ≥ 1"),
    ],
)
def test_wrong_settings_are_said_before_any_work(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, old, new, say=pytest.fail)


def run(folder: Path, old: str = "", new: str = "", *, say: Any = lambda _: None) -> dict[str, Any]:
    """The check's cell, with a change to its study."""
    text = STUDY.read_text(encoding="utf-8")
    assert old in text
    path = folder / "study.yaml"
    path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    cell = load_study(path).cells[0]
    return {**describe(cell), **runner(cell.runner)(Task(cell, folder, folder, folder, "cpu", say))}


def test_latency_of_a_made_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"retrieval\.yaml is a study of a synthetic task"):
        latency.measure(STUDY, tmp_path)


def test_the_same_cell_gives_the_same_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "_IMAGES", 20)
    short = ("[[2, 32, 150], [3, 16, 50]]", "[[2, 8, 3], [3, 4, 2]]")
    first, second = (run(tmp_path, *short) for _ in range(2))
    assert first["training"]["loss"] == second["training"]["loss"]
    assert first["replicates"] == second["replicates"]


def test_tuning_changes_the_gate_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "_TUNING", retrieval.Lesson(0.01, [[2, 4, 3]]))
    task = Retrieval(4, WIDTH)
    model = Retriever(task.channels, WIDTH, upper="pooled")
    before = {name: p.clone() for name, p in model.named_parameters()}
    study = Task(load_study(STUDY).cells[0], tmp_path, tmp_path, tmp_path, "cpu", lambda _: None)
    tuned = retrieval._derive("tuned", study, model, task, torch.Generator().manual_seed(0))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    changed = {name for name, p in tuned.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"fuse.blocks.0.attn.gate.weight", "fuse.blocks.0.attn.gate.bias"}
    assert any("fine_statistics" in name for name in tuned.state_dict())
    assert not tuned.training


def test_a_committed_cell_comes_out_the_same(tmp_path):
    """After a change of the settings: write what `run` gives over the committed file."""
    made, committed = run(tmp_path), json.loads(COMMITTED.read_text(encoding="utf-8"))
    for field in ("id", "digest", "settings", "parameters", "imgsz", "metric", "ceiling", "images"):
        assert made[field] == committed[field], field
    assert made["gflops"]["k0"] == committed["gflops"]["k0"]
    for name, count in made["gflops"].items():  # the committed ones project the selected fine positions alone
        assert count == pytest.approx(committed["gflops"][name], rel=0.15), name
    assert made["evaluations"].keys() == committed["evaluations"].keys()
    for name, figures in made["evaluations"].items():
        assert figures["value"] == pytest.approx(committed["evaluations"][name]["value"], abs=TOLERANCE), name
    replicates = unpack(made["replicates"], len(made["evaluations"]))
    assert np.abs(replicates.mean(1) - [f["value"] for f in made["evaluations"].values()]).max() < 0.01
    value = {name: figures["value"] for name, figures in made["evaluations"].items()}
    assert value["k0"] < made["ceiling"] < value["k8-refine"] - 0.1
    assert value["k8-refine-random:0"] < value["k8-refine"] - 0.1
