"""Images of a run are normalised as its network was trained, or as the settings say; earlier runs by ImageNet's."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from safetensors import safe_open

from messages import says
from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD
from pst.integrations.segmentation import PSTSegmenter
from pst.io.checkpoints import save_safetensors
from pst.train import fit, load_config, load_trained
from pst.train.models import build
from pst.train.state import STATE, read_state, save_weights
from pst.train.tasks import make_task
from train_runs import TASKS, settings

WHITE = 1.0  # as timm's test_resnet gets it, whose mean and standard deviation are 0.5
MORE = {"mean": [0.2, 0.3, 0.4], "std": [0.1, 0.2, 0.3]}
SEEN = [8, 3.5, 2]  # white by these
OF_IMAGENET = {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD]}
every_task = pytest.mark.parametrize("name", ["detect", "segment"])


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


@pytest.mark.parametrize("name", ["classify", "detect", "segment"])
def test_it_is_what_the_network_was_trained_with(name):
    task = task_of(name)
    assert seen(task, task.build(pretrained=False)) == pytest.approx([WHITE] * 3)


@every_task
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_settings_replace_it(name, channels):
    task = task_of(name, in_chans=channels, **MORE)
    wanted = {1: [0.7 / 0.2], 3: SEEN, 4: [*SEEN, SEEN[0]]}[channels]
    assert seen(task, task.build(pretrained=False)) == pytest.approx(wanted, rel=1e-5)
    own = task_of(name, in_chans=channels, mean=[0.25] * channels)
    assert seen(own, own.build(pretrained=False)) == pytest.approx([1.5] * channels)


def saved(path, name, change=None, **more):
    """Weights of a run, whose settings are changed afterwards."""
    task = task_of(name, **more)
    model = task.build(pretrained=False)
    save_weights(path, model, task)
    with safe_open(path, "pt") as file:
        [(key, text)] = file.metadata().items()
    content = json.loads(text)
    if change is not None:
        change(content["config"])
    save_safetensors(model.state_dict(), path, {key: json.dumps(content)})
    return content["config"]


def earlier(config):
    """As an earlier version wrote them."""
    del config["mean"], config["std"]


@every_task
def test_a_trained_model_keeps_what_it_was_trained_with(name, tmp_path, monkeypatch):
    file = tmp_path / "best.safetensors"
    saved(file, name, **MORE)
    assert seen(*load_trained(file)) == pytest.approx(SEEN, rel=1e-5)
    saved(file, name)
    monkeypatch.setattr("pst.backbones.timm.statistics_of", lambda *_: ((0.1,) * 3, (0.1,) * 3))  # another timm
    assert seen(*load_trained(file)) == pytest.approx([WHITE] * 3)
    saved(file, name, earlier)
    of_imagenet = [(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert seen(*load_trained(file)) == pytest.approx(of_imagenet, rel=1e-5)


def test_a_detector_of_an_earlier_version_keeps_what_model_args_said(tmp_path):
    def change(config):
        earlier(config)
        config["model_args"] |= {"image_mean": MORE["mean"], "image_std": MORE["std"]}

    saved(tmp_path / "best.safetensors", "detect", change)
    task, model = load_trained(tmp_path / "best.safetensors")
    assert seen(task, model) == pytest.approx(SEEN, rel=1e-5)
    assert "image_mean" not in task.config.model_args


def test_what_save_pretrained_writes_of_a_run_knows_them(tmp_path):
    saved(tmp_path / "best.safetensors", "segment", **MORE)
    _, model = load_trained(tmp_path / "best.safetensors")
    assert isinstance(model, PSTSegmenter)
    model.save_pretrained(tmp_path / "folder")
    again = PSTSegmenter.from_pretrained(tmp_path / "folder")
    assert (again.encoder.mean, again.encoder.std) == (tuple(MORE["mean"]), tuple(MORE["std"]))


@every_task
def test_starting_from_weights_that_saw_other_images_is_told(name, tmp_path, caplog):
    file = tmp_path / "w.safetensors"
    asked = "'mean=[0.485,0.456,0.406]' 'std=[0.229,0.224,0.225]'"
    for change, more in ((earlier, {}), (None, OF_IMAGENET)):
        saved(file, name, change, **more)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            build(task_of(name, weights=str(file)))
        assert f"{file} was trained with {asked}, this run has others: give these" in caplog.text
        caplog.clear()
        build(task_of(name, weights=str(file), **OF_IMAGENET))
        assert caplog.records == []


@every_task
@pytest.mark.parametrize("mean", [5, True, [], {"a": 1}, "x", [float("nan")] * 3, [[1]] * 3, [0.1, 0.2], [0.1] * 10**5])
def test_weights_whose_settings_hold_no_mean_are_damaged(name, mean, tmp_path):
    file = tmp_path / "w.safetensors"
    saved(file, name, lambda config: config.update(mean=mean))
    for read in (load_trained, lambda path: build(task_of(name, weights=str(path)))):
        with pytest.raises(ValueError, match=r"w\.safetensors is damaged: its metadata pst_train hold no settings"):
            read(file)


def test_a_run_of_an_earlier_version_goes_on_as_it_began(tmp_path):
    def config(**more):
        return load_config("segment", overrides=settings("segment", tmp_path, **more))

    run = fit(config(epochs=1))
    state = read_state(run / STATE)
    del state["config"]["mean"], state["config"]["std"]
    state["config"]["epochs"] = 2
    torch.save(state, run / STATE)
    with pytest.raises(
        ValueError, match=says("started with 'std=[0.229,0.224,0.225]' (now [0.1, 0.1, 0.1]): continue")
    ):
        fit(config(std=[0.1, 0.1, 0.1]), resume=True)
    fit(config(), resume=True)
    task, _ = load_trained(run)
    assert (task.config.mean, task.config.std) == (OF_IMAGENET["mean"], OF_IMAGENET["std"])
    fit(config(), resume=True)  # which says nothing


@pytest.mark.parametrize("given", [["mean=[0.2,0.3,0.4]", "std=[0.1, 0.2, 3e-1]", "data=d"], {**MORE, "data": "d"}])
def test_they_are_read_from_a_command_or_a_mapping(given):
    config: Any = load_config("segment", overrides=given)
    assert (config.mean, config.std) == (MORE["mean"], MORE["std"])


def test_they_are_read_from_a_file_and_null_takes_them_back(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: d\nmean: [0, 0.3, 4e-1]\nstd:\n- 1\n- 1\n- 1\n")
    config: Any = load_config("segment", file)
    assert (config.mean, config.std) == ([0.0, 0.3, 0.4], [1.0] * 3)
    again: Any = load_config("segment", file, ["mean=null"])
    assert (again.mean, again.std) == (None, [1.0] * 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mean=0.5", "mean must be a list of numbers or null, got 0.5"),
        ("mean=half", "mean must be a list of numbers or null, got 'half'"),
        ("mean=[a,b,c]", "mean must be a list of numbers or null, got ['a', 'b', 'c']"),
        ("mean=[0.5,0.5]", "mean must be three numbers, got [0.5, 0.5]"),
        ("mean=[]", "mean must be three numbers, got []"),
        ("std=[0.1,0,0.1]", "its numbers must be from 0.0001 to 10, got [0.1, 0.0, 0.1]: divide those of bytes by 255"),
        (
            "std=[0.1,nan,0.1]",
            "std is of images from 0 to 1, its numbers must be from 0.0001 to 10, got [0.1, nan, 0.1]",
        ),
        (
            "mean=[0.1,1e999,0.1]",
            "mean is of images from 0 to 1, its numbers must be from -2 to 2, got [0.1, inf, 0.1]",
        ),
        ("mean=[123.7,116.3,103.5]", "must be from -2 to 2, got [123.7, 116.3, 103.5]: divide those of bytes by 255"),
        ("model_args.image_mean=[0.5,0.5,0.5]", "model_args has image_mean: leave it out and set mean=[…]"),
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
    config: Any = load_config("detect", overrides=["data=d", "in_chans=1", "mean=[0.1]"])
    assert config.mean == [0.1]
