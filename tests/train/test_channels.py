"""Runs on images of 1 and 4 channels: data, model, statistics, evaluation and pictures agree."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from pst.train import evaluate, fit, load_config, load_trained
from pst.train.augment import jitter
from pst.train.predict import predict_images
from train_runs import TASKS, settings


def stem(model):
    return next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).weight


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_on_other_channels(task, channels, tmp_path):
    plain = settings(task, tmp_path, epochs=1, max_steps=1, in_chans=channels)
    files = [file for file in sorted((tmp_path / "data").rglob("*.png")) if "masks" not in file.parts]
    if channels == 4:
        for file in files:
            with Image.open(file) as image:
                image.convert("RGBA").save(file)
    run = fit(load_config(task, overrides=plain))
    trained, model = load_trained(run)
    assert stem(model).shape[1] == channels
    for name, value in evaluate(run)["metrics"].items():
        assert 0 <= value <= 1 or (value == -1 and name.startswith("map_")), name  # no object is of that size
    (entry,) = predict_images(run, files[:1], tmp_path / "pictures")
    assert entry["image"] == str(files[0])
    with Image.open(tmp_path / "pictures" / f"{files[0].stem}.png") as picture:
        assert picture.mode == "RGB"
    assert trained.config.in_chans == channels


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_grey_run_normalises_with_the_average(task, tmp_path):
    more = {} if task == "classify" else {"mean": [0.2, 0.3, 0.4], "std": [0.1, 0.2, 0.3]}
    run = fit(load_config(task, overrides=settings(task, tmp_path, epochs=1, max_steps=1, in_chans=1, **more)))
    trained, _ = load_trained(run)
    edge = trained.square(torch.zeros(1, 9, 9, dtype=torch.uint8)).shape[-1]
    black = trained.inputs(torch.zeros(1, 1, edge, edge, dtype=torch.uint8))
    assert black.shape[1] == 1
    assert black.unique().tolist() == pytest.approx([-1 if task == "classify" else -0.3 / 0.2])


def test_data_without_the_channels_stops_before_any_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"00\.png.*: it has 3 channels \(RGB\), wanted .* 4 channels"):
        fit(load_config("classify", overrides=settings("classify", tmp_path, in_chans=4)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"in_chans": 0}, "in_chans must be from 1 to 4096, got 0"),
        ({"model_args": {"in_chans": 1}}, "model_args has in_chans.*set in_chans="),
        ({"model_args": {"backbone_options": {"in_channels": 1}}}, "model_args has in_channels.*set in_chans="),
    ],
)
def test_the_number_is_set_in_one_place(more, message):
    with pytest.raises(ValueError, match=message):
        load_config("detect", overrides={"data": "d", **more})


@pytest.mark.parametrize("channels", [1, 4])
def test_jitter_of_other_channels_changes_brightness_and_contrast(channels):
    torch.manual_seed(0)
    images = torch.rand(3, channels, 8, 8) * 0.4 + 0.3
    out = jitter(images, 0.2)
    assert out.shape == images.shape
    assert not torch.equal(out, images)
    for one, other in zip(images.flatten(1), out.flatten(1), strict=True):  # each an affine change of the image
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.9999
