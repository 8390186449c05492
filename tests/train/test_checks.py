"""What can be known before training is refused before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pst.files import WriteError
from pst.train import checks, fit, load_config
from pst.train.models import make_model
from pst.train.tasks import make_task
from train_runs import settings


def refused(task, root, match, kind: Any = ValueError, **more: Any):
    plain = settings(task, root, **more)
    with pytest.raises(kind, match=match) as error:
        fit(load_config(task, overrides=plain))
    assert "\n" not in str(error.value)
    assert not (root / "run").exists()


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"model": "resnet88"}, "timm has no model 'resnet88': did you mean 'resnet"),
        ({"model": "hf_hub:timm/resnet18"}, "timm has no model 'hf_hub"),
        ({"model": ""}, "timm has no model ''"),
        ({"optimizer": "adamv"}, "timm has no optimizer 'adamv': did you mean 'adam"),
        ({"optimizer": "adahessian"}, "adahessian needs second derivatives"),
        ({"selection": "median"}, "selection must be one of"),
        ({"model": "resnet10t", "selection": "median"}, "selection must be one of"),
        ({"model_args": {"foo": 1}}, "model_args={'foo': 1}.*foo"),
        ({"model_args": {"num_classes": 3}}, "num_classes"),
        ({"model": "vit_tiny_patch16_224"}, "imgsz=32.*224"),
        ({"batch": 1, "model": "resnet10t"}, "batch=1"),
        ({"weights": "none.safetensors"}, "none.safetensors"),
    ],
)
def test_classification(more, match, tmp_path):
    refused("classify", tmp_path, match, kind=(ValueError, OSError), **more)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_other_tasks(task, tmp_path):
    name = {"detect": "backbone", "segment": "encoder"}[task]
    refused(task, tmp_path, "resnet88", **{name: "resnet88"})
    refused(task, tmp_path, "foo", model_args={"foo" if task == "segment" else "backbone_options": {"foo": 1}})


def test_an_odd_number_of_images_cannot_be_mixed(tmp_path):
    plain = settings("classify", tmp_path)
    for file in list((tmp_path / "data" / "train").glob("*/*.png"))[:1]:
        file.unlink()  # 11 are left, fewer than a batch
    refused("classify", tmp_path, "11 images", batch=20, mixup=0.2, data=plain["data"])


def test_a_folder_that_would_lose_something_is_refused(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "best.safetensors").write_text("of a friend")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"best\.safetensors, which a run would replace"):
            fit(load_config("classify", overrides=settings("classify", tmp_path, out=str(folder))), resume=resume)
    assert [file.name for file in folder.iterdir()] == ["best.safetensors"]
    refused("classify", tmp_path, "is a file", kind=OSError, out=str(folder / "best.safetensors"))


def test_space_on_the_disk_is_checked(tmp_path, monkeypatch):
    model = make_model(make_task(load_config("classify", overrides=settings("classify", tmp_path))), pretrained=False)
    checks.check_disk(tmp_path / "run", model)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1000}))
    refused("classify", tmp_path, r"run needs \d+ MB, and its disk has 0 MB free", kind=WriteError)


def test_the_first_batch_leaves_the_model_alone(tmp_path):
    config = load_config("classify", overrides=settings("classify", tmp_path))
    task = make_task(config)
    model = make_model(task, pretrained=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checks.check_batch(task, model, task.dataset("train"), torch.device("cpu"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_tensorboard_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    refused("classify", tmp_path, "tensorboard=false", kind=ImportError, tensorboard=True)
