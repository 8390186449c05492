"""PST necks: the host's own model with its top-down blocks replaced, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG

from pst.control import attention_layers
from pst.integrations.ultralytics import YOLO, PSTRow, model_zoo, pst_neck, zoo
from pst.integrations.ultralytics.zoo import host_name

pytestmark = pytest.mark.usefixtures("registered")

ZOO = {model.name: model for model in model_zoo()}
NECKS = [name for name in ZOO if host_name(name) is not None]
SMALLEST = [name for name, model in ZOO.items() if model.scale == "n" or name == "rtdetr-l-pst.yaml"]
LARGER = [name for name in ZOO if name not in SMALLEST]


def rows_of(name: str) -> dict[str, Any]:
    d = tasks.yaml_model_load(name)
    assert d is not None
    return d


def host_of(name: str) -> dict[str, Any]:
    host = host_name(name)
    assert host is not None
    return rows_of(host)


@pytest.mark.parametrize("name", [name for name in NECKS if name in SMALLEST and "-cls" not in name])
def test_only_the_blocks_of_the_top_down_fusion_are_others(name: str) -> None:
    host, neck = host_of(name), rows_of(name)
    assert neck["backbone"] == host["backbone"]
    changed = [(a, b) for a, b in zip(host["head"], neck["head"], strict=True) if a != b]
    assert len(changed) == 2  # P5 → P4 and P4 → P3
    for (source, repeats, block, args), (sources, *rest) in changed:
        assert source == sources[0] == -1
        assert block in {"C3k2", "A2C2f", "RepC3"}
        assert rest == [repeats, "PST", [args[0], 2, 0.5]]
    same = {key: value for key, value in host.items() if key not in ("head", "scale", "yaml_file")}
    assert {key: neck[key] for key in same} == same


@pytest.mark.parametrize("name", [name for name in NECKS if name in SMALLEST and "-cls" in name])
def test_classifier_gets_the_papers_fusion_between_host_backbone_and_head(name: str) -> None:
    host, neck = host_of(name), rows_of(name)
    assert neck["backbone"] == host["backbone"]
    assert neck["head"][4:] == host["head"]
    paper = rows_of("resnet50-cls-pst.yaml")["head"]
    assert [row[1:] for row in neck["head"][:4]] == [row[1:] for row in paper[:4]]


@pytest.mark.parametrize("scale", "nsm")
def test_neck_of_yolo12_is_the_papers_detector(scale: str) -> None:
    """The paper's YOLO11-PST has YOLO12's backbone, bottom-up path and head: the generator arrives at it by itself."""
    ours, paper = (rows_of(f"{name}.yaml") for name in (f"yolo12{scale}-pst-neck", f"yolo11{scale}-pst"))
    assert ours["backbone"] + ours["head"] == paper["backbone"] + paper["head"]
    assert ours["scales"][scale] == paper["scales"][scale]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALLEST else pytest.mark.slow) for name in NECKS]
)
def test_all_other_weights_have_the_hosts_names_and_shapes(name: str) -> None:
    host, neck = host_of(name), rows_of(name)
    rows = len(host["backbone"]) if "-cls" in name else len(host["backbone"] + host["head"])
    layers = [layers_of(d)[:rows] for d in (host, neck)]
    kept = [not isinstance(layer, PSTRow) for layer in layers[1]]
    assert kept.count(False) == (0 if "-cls" in name else 2)
    theirs, ours = ([shapes(m) for m, keep in zip(side, kept, strict=True) if keep] for side in layers)
    assert ours == theirs


def layers_of(d: dict[str, Any]) -> torch.nn.Sequential:
    with torch.device("meta"):
        return tasks.parse_model(copy.deepcopy(d), 3, verbose=False)[0]


def shapes(layer: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in layer.state_dict().items()}


def batch_for(task: str, classes: int, size: int = 64) -> dict[str, torch.Tensor]:
    """Two images with one object each, labelled for ``task``."""
    rng = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.5, 0.5, 0.6, 0.6], [0.4, 0.5, 0.5, 0.7]])
    batch = {"img": torch.rand(2, 3, size, size, generator=rng), "batch_idx": torch.tensor([0.0, 1.0])}
    batch |= {"cls": torch.zeros(2, 1), "bboxes": boxes}
    if task == "classify":
        batch["cls"] = torch.tensor([0, 1])
    elif task == "segment":
        masks = torch.zeros(2, size // 4, size // 4)
        masks[:, 4:12, 4:12] = 1
        batch |= {"masks": masks, "sem_masks": masks[:, ::2, ::2].long()}
    elif task == "pose":
        points = torch.rand(2, 17, 2, generator=rng)
        batch["keypoints"] = torch.cat([points, torch.full((2, 17, 1), 2.0)], -1)  # 2: visible
    elif task == "obb":
        batch["bboxes"] = torch.cat([boxes, torch.tensor([[0.2], [0.4]])], 1)  # angles
    elif task == "semantic":
        batch["semantic_mask"] = torch.randint(0, classes, (2, size, size), generator=rng)
    elif task == "depth":
        batch["depth"] = 1 + torch.rand(2, 1, size, size, generator=rng)
    return batch


def train_step(name: str) -> None:
    """One loss and its gradient: finite at every parameter, and other than zero where PST works."""
    torch.manual_seed(0)
    yolo = YOLO(name)
    assert yolo.task == ZOO[name].task
    model = yolo.model.train()
    model.args, model.nc = DEFAULT_CFG, model.yaml["nc"]  # the trainer sets both
    sizes: list[tuple[int, int]] = []
    for layer in model.modules():
        if isinstance(layer, PSTRow):
            layer.register_forward_pre_hook(lambda _, args: sizes.append((args[0][0].shape[2], args[0][1].shape[2])))
    loss, _ = model.loss(batch_for(ZOO[name].task, model.nc))
    loss.sum().backward()
    assert sizes
    assert all(fine == 2 * coarse for fine, coarse in sizes)
    for key, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, f"{key} gets no gradient"
            assert p.grad.isfinite().all(), key
    for layer in (m for m in model.modules() if isinstance(m, PSTRow)):
        for key, p in layer.named_parameters():
            assert ".gate." in key or bool((p.grad != 0).any()), f"{key} has no influence"  # k = 0 runs no gate


@pytest.mark.parametrize("name", SMALLEST)
def test_training_step(name: str, host_warnings: list[str]) -> None:
    train_step(name)
    assert host_warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_training_step_of_larger_models(name: str, host_warnings: list[str]) -> None:
    train_step(name)
    assert host_warnings == []


@pytest.mark.parametrize("name", ["yolo26n-pst-neck-seg.yaml", "rtdetr-l-pst.yaml"])
def test_dictionary_rebuilds_the_model_without_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a checkpoint and the processes of a multi-GPU run do."""
    model = YOLO(name).model
    monkeypatch.setattr(zoo, "load_by_name", None)
    again = type(model)(copy.deepcopy(model.yaml), verbose=False)
    assert str(again) == str(model)


def test_pretrained_host_loads_into_all_but_pst() -> None:
    host, neck = YOLO("yolo11n.yaml").model, YOLO("yolo11n-pst-neck.yaml").model
    neck.load(host, verbose=False)
    source = host.state_dict()
    rows = {f"model.{m.i}." for m in neck.model if isinstance(m, PSTRow)}
    for key, value in neck.state_dict().items():
        if not key.startswith(tuple(rows)):
            assert torch.equal(value, source[key]), key


def test_heads_narrow_where_32_does_not_divide_the_width() -> None:
    """P2 at scale n is 32 wide: half of that is one head of 16."""
    d = rows_of("yolo26n-pst-neck-p2.yaml")
    options = [row[3][3:] for row in d["head"] if row[2] == "PST"]
    assert options == [[], [], [{"head_dim": 16}]]
    finest = list(attention_layers(YOLO("yolo26n-pst-neck-p2.yaml")).values())[-1]
    assert (finest.dim, finest.num_heads) == (16, 1)


def test_host_is_left_as_it_is() -> None:
    host = rows_of("yolo11n.yaml")
    before = copy.deepcopy(host)
    pst_neck(host)
    assert host == before


def test_model_without_top_down_fusion_is_refused() -> None:
    d = {"backbone": [[-1, 1, "Conv", [64, 3, 2]]], "head": [[[0], 1, "Detect", ["nc"]]], "yaml_file": "mine.yaml"}
    with pytest.raises(ValueError, match=r"mine\.yaml has no top-down fusion"):
        pst_neck(d)
