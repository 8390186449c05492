"""Mean and standard deviation of networks of transformers: those of their image processors."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from messages import says
from pst.backbones import build_body
from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, per_channel

HALF = (0.5, 0.5, 0.5)

transformers: Any = pytest.importorskip("transformers", reason="an optional extra: its image processors are read here")
VIT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def folder(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**VIT, image_size=32)).save_pretrained(tmp_path)
    return tmp_path


def processor(folder, **fields):
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("fields", "mean", "std"),
    [
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, HALF, HALF),
        ({"image_mean": [0.1, 0.2, 0.3]}, (0.1, 0.2, 0.3), IMAGENET_STD),
        ({"do_normalize": False, "image_mean": [0.5, 0.5, 0.5]}, (0.0,) * 3, (1.0,) * 3),
        ({}, IMAGENET_MEAN, IMAGENET_STD),
        ({"image_processor_type": "ViTImageProcessor"}, HALF, HALF),  # its class's
        ({"image_processor_type": "ViTImageProcessor", "image_mean": [0.25] * 3}, (0.25,) * 3, HALF),
        ({"image_processor_type": "None"}, IMAGENET_MEAN, IMAGENET_STD),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, HALF, (0.2,) * 3),
        ({"rescale_factor": 1 / 127.5, "do_normalize": False}, (0.0,) * 3, HALF),
    ],
)
def test_those_of_transformers_are_the_image_processors(folder, fields, mean, std):
    processor(folder, **fields)
    body: Any = build_body(f"hf:{folder}", width=16)
    assert (body.mean, body.std) == (pytest.approx(mean), pytest.approx(std))
    grey: Any = build_body(f"hf:{folder}", width=16, in_channels=1)
    assert grey.mean == pytest.approx(per_channel(mean, 1))


def test_a_network_of_transformers_without_an_image_processor_has_imagenets(folder, caplog):
    body: Any = build_body(f"hf:{folder}", width=16)
    assert (body.mean, body.std) == (IMAGENET_MEAN, IMAGENET_STD)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    hierarchy: Any = build_body(transformers.ResNetConfig(**sizes))
    assert (hierarchy.mean, hierarchy.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert caplog.records == []


def test_an_image_processor_that_cannot_be_fetched_is_told_of(folder, monkeypatch, caplog):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("pst.backbones.transformers_statistics.Path.is_dir", lambda _: False)
    monkeypatch.setattr(
        "pst.backbones.transformers_statistics.image_processing_auto.get_image_processor_config", unreachable
    )
    with caplog.at_level(logging.WARNING):
        body: Any = build_body(f"hf:{folder}", width=16)
    assert body.mean == IMAGENET_MEAN
    assert "(no network): ImageNet's mean and standard deviation are taken" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean … must be three numbers, got [0.5, 0.5]"),
        ({"image_mean": "half"}, "image_mean … must be three numbers, got half"),
        ({"image_std": [True, True, True]}, "image_std … must be three numbers, got [True, True, True]"),
        ({"image_std": [0.5, 0.5, float("nan")]}, "image_std … must be from 0.0001 to 10, got [0.5, 0.5, nan]"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std … must be from 0.0001 to 10, got [0.5, 0.0, 0.5]"),
        ({"image_mean": [127.5] * 3}, "image_mean … must be from -2 to 2, got [127.5, 127.5, 127.5]"),
        ({"rescale_factor": 0}, "rescale_factor … must be a number above 0, got '0'"),
        ({"rescale_factor": "1/255"}, "rescale_factor … must be a number above 0, got '1/255'"),
    ],
)
def test_what_is_no_mean_or_deviation_is_refused(folder, fields, message):
    processor(folder, **fields)
    with pytest.raises(ValueError, match=says(message.replace("…", f"of the image processor of hf:{folder} …"))):
        build_body(f"hf:{folder}", width=16)


def test_an_image_processor_that_is_no_json_is_refused(folder):
    (folder / "preprocessor_config.json").write_text("[1")
    with pytest.raises(ValueError, match=says(f"the image processor of hf:{folder} cannot be read: … JSON")):
        build_body(f"hf:{folder}", width=16)
