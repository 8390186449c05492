"""Models by name: the paper's against the goldens, and what a name means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from ultralytics.utils.checks import check_yaml

import golden
import pst
from pst import cli
from pst.integrations.ultralytics import YOLO, model_zoo
from pst.integrations.ultralytics.zoo import host_name
from pst.io.checkpoints import from_authors, to_authors

pytestmark = pytest.mark.usefixtures("registered")

CASES = {case["name"]: case for case in golden.index()["model"]}
NEWER = {"semantic": "yolo26-sem.yaml", "depth": "yolo26-depth.yaml"}  # came during 8.4
PAPER = sorted({case["model"] for case in CASES.values()})


@pytest.mark.parametrize("name", PAPER)
def test_paper_model_has_the_authors_parameters_and_keys(name: str, host_warnings: list[str]) -> None:
    model = YOLO(f"{name}.yaml").model
    assert sum(p.numel() for p in model.parameters()) == CASES[f"model.{name}.k0"]["parameters"]
    assert {k: list(v.shape) for k, v in to_authors(model.state_dict()).items()} == golden.index()["state_dict"][name]
    assert host_warnings == []


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n.startswith(("resnet101", "yolo11m")) else []) for n in PAPER]
)
def test_paper_model_computes_the_goldens_in_float64(name: str) -> None:
    model = YOLO(f"{name}.yaml").model.eval().double()
    model.load_state_dict(from_authors(golden.weights(to_authors(model.state_dict()), 1200)))
    for k in (0, 8):
        case = CASES[f"model.{name}.k{k}"]
        pst.set_topk(model, k)
        with torch.no_grad():
            out = model(0.5 + 0.25 * golden.tensor("image", (1, 3, *case["image"]), case["seed"]))
        got = {"prob": out[0], "logits": out[1]} if "-cls" in name else levels(out[1], case["outputs"])
        expected = golden.vectors(case["name"])
        assert got.keys() == expected.keys()
        for output, values in got.items():
            # the goldens are float64 results rounded to float32: at most 2⁻²⁴ of the largest value is lost
            error = (values - expected[output]).abs().max() / values.abs().max()
            assert error <= 2**-24, f"k={k} {output}: {error:.1e} of the largest value"


def levels(raw: dict[str, torch.Tensor], shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The detection head's raw maps, one for each pyramid level."""
    parts = torch.cat([raw["boxes"], raw["scores"]], 1).split([h * w for _, _, h, w in shapes.values()], 2)
    return {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def test_zoo_lists_the_paper_and_every_task_of_every_host() -> None:
    zoo = model_zoo()
    names = [model.name for model in zoo]
    assert len(set(names)) == len(names)
    assert [name for name in names if host_name(name) is None] == names[:12]
    assert {f"{name}.yaml" for name in PAPER} == set(names[:12])
    necks = {(name[:6], model.task) for name, model in zip(names, zoo, strict=True) if "-pst-neck" in name}
    tasks = {"detect", "segment", "pose", "obb", "classify"}
    assert necks == {
        *((host, task) for host in ("yolo11", "yolo12", "yolo26") for task in tasks),
        *(("yolo26", task) for task, yaml in NEWER.items() if check_yaml(yaml, hard=False)),
    }
    assert {model.scale for model in zoo if model.name.startswith("yolo26")} == set("nsmlx")
    assert {model.scale for model in zoo if model.name.startswith("resnet101")} == {"s"}


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("yolo11n-pst-neck.yaml", "yolo11n.yaml"),
        ("yolo26x-pst-neck-seg.yaml", "yolo26x-seg.yaml"),
        ("rtdetr-l-pst.yaml", "rtdetr-l.yaml"),
        ("yolo11n-pst.yaml", None),
        ("resnet18-cls-pst.yaml", None),
    ],
)
def test_host_of_a_name(name: str, host: str | None) -> None:
    assert host_name(name) == host


def test_name_without_scale_is_the_smallest_and_the_host_says_so(host_warnings: list[str]) -> None:
    plain, scaled = YOLO("yolo26-pst-neck.yaml").model, YOLO("yolo26n-pst-neck.yaml").model
    assert [p.shape for p in plain.parameters()] == [p.shape for p in scaled.parameters()]
    assert ["Assuming scale='n'" in message for message in host_warnings] == [True]


def test_scale_that_the_paper_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"yolo11l-pst\.yaml has no scale 'l': choose one of n, s, m"):
        YOLO("yolo11l-pst.yaml")


def test_unknown_host_is_the_hosts_own_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"yolo99-seg\.yaml"):
        YOLO("yolo99n-pst-neck-seg.yaml")


def test_a_misspelt_name_is_quoted_as_it_was_given_with_the_nearest_one() -> None:
    for name in ("yolo11n-pst-nek", "yolo11n-pstneck"):
        with pytest.raises(FileNotFoundError, match=rf"{name}\.yaml.* did you mean 'yolo11n-pst-neck\.yaml'\?"):
            YOLO(f"{name}.yaml")
    with pytest.raises(FileNotFoundError, match=r"no file my-pst\.yaml.*pst info --models"):
        YOLO("my-pst.yaml")


def test_a_folder_in_the_path_means_a_file() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        YOLO("nowhere/yolo11n-pst.yaml")


def test_rtdetr_by_either_class() -> None:
    ours, stock = YOLO("rtdetr-l-pst.yaml"), ultralytics.RTDETR("rtdetr-l-pst.yaml")
    assert isinstance(ours, type(stock))
    assert str(ours.model) == str(stock.model)
    pst.set_topk(ours, 4)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert ours.model.eval()(image)[0].shape == (1, 300, 6)


def test_info_lists_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--models", "yolo11n-pst.yaml"]) == 0
    header, rule, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "task", "parameters", "GFLOPs", "px"]
    assert set(rule) == {"-", " "}
    assert row.split() == ["yolo11n-pst.yaml", "detect", "2,617,232", "8.86", "640"]


def test_info_names_what_it_cannot_find(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--models", "yolo3000"]) == 2
    assert "no model has 'yolo3000' in its name" in capsys.readouterr().err


def test_info_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    longest = max((model.name for model in model_zoo()), key=len)
    assert cli.main(["info", "--models", longest]) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())


def test_trains_and_reopens(boxes_data: Path, tmp_path: Path) -> None:
    """The trainer builds the model again from its name, with another number of classes."""
    yolo = YOLO("yolo26n-pst-neck.yaml")
    args: dict[str, Any] = {"plots": False, "verbose": False, "device": "cpu", "imgsz": 64, "workers": 0}
    yolo.train(data=str(boxes_data), epochs=1, batch=8, val=False, project=str(tmp_path), name="run", **args)
    reopened = YOLO(tmp_path / "run" / "weights" / "last.pt").model
    assert reopened.yaml["nc"] == 2
    assert len(pst.control.attention_layers(reopened)) == 2
