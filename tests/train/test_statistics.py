"""Images of a run are normalised as its network was trained, or as the settings say; earlier runs by ImageNet's."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors import safe_open

from messages import says
from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD
from pst.io.checkpoints import save_safetensors
from pst.train import fit, load_config, load_trained
from pst.train.models import build
from pst.train.state import STATE, read_state, save_weights
from pst.train.tasks import make_task
from train_runs import TASKS, settings

GREY = 0.5 / 0.5  # white, for timm's test_resnet, whose mean and standard deviation are 0.5
MORE = {"mean": [0.2, 0.3, 0.4], "std": [0.1, 0.2, 0.3]}
every_task = pytest.mark.parametrize("name", ["classify", "detect", "segment"])


def task_of(name, **more):
    return make_task(load_config(name, overrides={**TASKS[name], "data": "none", **more}), ("a", "b"))


def seen(task, model):
    """Values of a white image as the network gets it, of each channel."""
    images = torch.full((1, task.config.in_chans, 128, 128), 255, dtype=torch.uint8)
    if task.config.task == "detect":
        normalised = model.transform(task.inputs(images))[0].tensors
    else:
        normalised = task.inputs(images)
    return normalised[0, :, 16, 16].tolist()


@every_task
def test_it_is_what_the_network_was_trained_with(name):
    task = task_of(name)
    assert seen(task, task.build(pretrained=False)) == pytest.approx([GREY] * 3)


@every_task
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_settings_replace_it(name, channels):
    task = task_of(name, in_chans=channels, **MORE)
    wanted = {1: [0.7 / 0.2], 3: [8, 3.5, 2], 4: [8, 3.5, 2, 8]}[channels]
    assert seen(task, task.build(pretrained=False)) == pytest.approx(wanted, rel=1e-5)
    own = task_of(name, in_chans=channels, mean=[0.25] * channels)
    assert seen(own, own.build(pretrained=False)) == pytest.approx([1.5] * channels)


def earlier(path, name):
    """Weights of a run as an earlier version wrote them."""
    task = task_of(name)
    model = task.build(pretrained=False)
    save_weights(path, model, task.config, ("a", "b"))
    with safe_open(path, "pt") as file:
        [(key, text)] = file.metadata().items()
    content = json.loads(text)
    assert content["config"].pop("mean") is content["config"].pop("std") is None
    save_safetensors(model.state_dict(), path, {key: json.dumps(content)})


@every_task
def test_a_trained_model_keeps_what_it_was_trained_with(name, tmp_path):
    file = tmp_path / "best.safetensors"
    task = task_of(name, **MORE)
    save_weights(file, task.build(pretrained=False), task.config, ("a", "b"))
    assert seen(*load_trained(file)) == pytest.approx([8, 3.5, 2], rel=1e-5)
    earlier(file, name)
    of_imagenet = [(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert seen(*load_trained(file)) == pytest.approx([GREY] * 3 if name == "classify" else of_imagenet, rel=1e-5)


@every_task
def test_starting_from_weights_that_saw_other_images_is_told(name, tmp_path, caplog):
    file = tmp_path / "w.safetensors"
    earlier(file, name)
    with caplog.at_level(logging.WARNING):
        build(task_of(name, weights=str(file)))
    asked = "mean=[0.485,0.456,0.406] std=[0.229,0.224,0.225]"
    if name == "classify":
        assert caplog.records == []
        return
    assert f"{file} was trained with {asked}, this run has others: give these" in caplog.text
    caplog.clear()
    build(task_of(name, weights=str(file), mean=[*IMAGENET_MEAN], std=[*IMAGENET_STD]))
    assert caplog.records == []


def test_a_run_of_an_earlier_version_goes_on_only_as_it_began(tmp_path):
    run = fit(load_config("segment", overrides=settings("segment", tmp_path, epochs=1, max_steps=1)))
    state = read_state(run / STATE)
    del state["config"]["mean"], state["config"]["std"]
    torch.save(state, run / STATE)
    message = says("was started with mean=[0.485, 0.456, 0.406] (now None), std=[0.229, … (now None): continue")
    with pytest.raises(ValueError, match=message):
        fit(load_config("segment", overrides=settings("segment", tmp_path, epochs=1, max_steps=1)), resume=True)
    same = {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD]}
    fit(load_config("segment", overrides=settings("segment", tmp_path, epochs=1, max_steps=1, **same)), resume=True)


@pytest.mark.parametrize("given", [["mean=[0.2,0.3,0.4]", "std=[0.1, 0.2, 3e-1]", "data=d"], {**MORE, "data": "d"}])
def test_they_are_read_from_a_command_or_a_mapping(given):
    config = load_config("segment", overrides=given)
    assert (config.mean, config.std) == (MORE["mean"], MORE["std"])


def test_they_are_read_from_a_file_and_null_takes_them_back(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: d\nmean: [0, 0.3, 4e-1]\nstd:\n- 1\n- 1\n- 1\n")
    config = load_config("segment", file)
    assert (config.mean, config.std) == ([0.0, 0.3, 0.4], [1.0] * 3)
    assert load_config("segment", file, ["mean=null"]).mean is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mean=0.5", "mean must be a list of numbers or null, got 0.5"),
        ("mean=half", "mean must be a list of numbers or null, got 'half'"),
        ("mean=[a,b,c]", "mean must be a list of numbers or null, got ['a', 'b', 'c']"),
        ("mean=[0.5,0.5]", "mean must be three numbers, got [0.5, 0.5]"),
        ("mean=[]", "mean must be three numbers, got []"),
        ("std=[0.1,0,0.1]", "std must be finite numbers above 0, got [0.1, 0.0, 0.1]"),
        ("std=[0.1,nan,0.1]", "std must be finite numbers above 0, got [0.1, nan, 0.1]"),
        ("mean=[0.1,1e999,0.1]", "mean must be finite numbers, got [0.1, inf, 0.1]"),
        ("mean.red=0.1", "mean must be a list of numbers or null"),
        ("mean=[0.1", "mean: '[0.1' is not YAML"),
    ],
)
def test_what_is_no_mean_or_deviation_is_refused(override, message):
    with pytest.raises(ValueError, match=says(message)):
        load_config("detect", overrides=["data=d", override])


def test_as_many_numbers_as_channels():
    with pytest.raises(ValueError, match=says("must be three numbers, or one for each of 5 channels, got [0.1]")):
        load_config("detect", overrides=["data=d", "in_chans=5", "mean=[0.1]"])
    assert load_config("detect", overrides=["data=d", "in_chans=1", "mean=[0.1]"]).mean == [0.1]
