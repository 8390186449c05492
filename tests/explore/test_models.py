"""Models of every adapter, found in folders and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from checkpoint_files import Call, write_archive
from messages import says
from pst.explore import models
from pst.explore.models import PROPAGATION, find_models, load_model
from pst.explore.view import Asked, compute, show

LEGACY = Path(__file__).parents[1] / "legacy"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without the demo's model


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))


def run(path: Path, k: int = 2) -> tuple[Any, Any, Any]:
    """What is shown of a model, with a position."""
    network = load_model(path)
    computed = compute(network, picture(), Asked(k, None, "refine", "mean"))
    layer = next(iter(computed.passes))
    return network, computed, show(computed, Asked(k), layer, 0, (0.3, 0.3))


def test_models_are_found_below_a_folder():
    names = [choice.name for choice in find_models([LEGACY])]
    assert names == ["legacy/expected.safetensors", "legacy/layer.pt", "legacy/run", "legacy/yolo.pt", PROPAGATION]


def test_a_file_is_given_once_and_names_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "best.pt").touch()
    files = [tmp_path / "a/best.pt", tmp_path / "b/best.pt", tmp_path / "a/best.pt"]
    assert [choice.name for choice in find_models(files)] == ["best.pt", "best.pt (2)", PROPAGATION]


def test_the_demos_model_is_there_if_it_is(tmp_path):
    models.DEMO.parent.mkdir(parents=True)
    models.DEMO.touch()
    for given in ([], [models.DEMO], [tmp_path / models.DEMO]):
        assert [choice.name for choice in find_models(given)] == ["the demo's detector", PROPAGATION]


def test_nothing_at_a_path_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "best.onnx").touch()
    for path, message in (
        ("none.pt", "no model at none.pt: expected"),
        ("empty", "no model in empty: expected"),
        ("best.onnx", "not a model: best.onnx: expected a .pt"),
    ):
        with pytest.raises(FileNotFoundError, match=says(message)):
            find_models([path])


def test_a_checkpoint_of_ultralytics():
    pytest.importorskip("ultralytics")
    network, computed, shown = run(LEGACY / "yolo.pt")
    assert network.classes
    assert computed.seen.square.size == (network.edge, network.edge)
    assert shown.attention is not None
    assert "; the highest is 0.00" in network.find(computed.seen).text  # it was never trained


def test_without_an_object_the_highest_score_is_named():
    pytest.importorskip("ultralytics")
    network = load_model(LEGACY / "yolo.pt")
    some, none = torch.tensor([0.2, 0.71]), torch.tensor([0.2, 0.04])
    network.classes = ["dog", "cat"]
    for scores, tags, text in (
        (some, ["cat 0.71"], "1 object of a score of at least 0.3"),
        (none, [], "0 objects of a score of at least 0.3; the highest is 0.2"),
        (none[:0], [], "0 objects of a score of at least 0.3"),
    ):
        found = network.boxes(torch.zeros(len(scores), 4), scores, torch.arange(len(scores)))
        assert (found.tags, found.text) == (tags, text)


def test_a_run_of_the_trainer_as_folder_and_as_file():
    pytest.importorskip("accelerate")
    for path in (LEGACY / "run", LEGACY / "run" / "best.safetensors"):
        _, computed, shown = run(path)
        assert computed.coarse.text.count(",") == 1  # two classes, each with its score
        assert shown.attention is not None


def test_a_segmenter_with_its_classes(tmp_path):
    from pst.integrations.segmentation import PSTSegmenter

    model = PSTSegmenter("test_resnet", classes=3, decoder_pyramid_channels=64, decoder_segmentation_channels=32)
    model.save_pretrained(tmp_path / "saved")
    _, computed, shown = run(tmp_path / "saved")
    assert computed.fine.mask.shape == computed.seen.square.size
    assert computed.fine.mask.max() < 3
    assert len(computed.passes) == 3
    assert shown.fine.size[0] * 3 == shown.fine.size[1] * 4


def test_a_detector(tmp_path):
    from pst.integrations.torchvision import PSTDetector

    options = {"out_channels": 64}
    PSTDetector("fcos", "test_resnet", 2, min_size=64, max_size=64, backbone_options=options).save_pretrained(
        tmp_path / "saved"
    )
    network, computed, _ = run(tmp_path / "saved")
    assert network.edge == 64
    assert all(name.startswith("model.backbone") for name in computed.passes)


@pytest.mark.parametrize("kind", ["PSTClassifier", "PSTFeatures"])
def test_models_of_timm(kind, tmp_path):
    from pst.integrations import timm

    options = {"num_classes": 4} if kind == "PSTClassifier" else {"out_channels": 64}
    getattr(timm, kind)("test_resnet", **options).save_pretrained(tmp_path / "saved")
    _, computed, shown = run(tmp_path / "saved")
    assert "class" in computed.coarse.text or "features" in computed.coarse.text
    assert shown.tokens is not None


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no model")
    (tmp_path / "x.pt").write_bytes(b"no model")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/config.json").write_text('{"a": 1}')
    (tmp_path / "saved/model.safetensors").touch()
    for name in ("x.safetensors", "x.pt", "saved"):
        with pytest.raises(ValueError, match=name):
            load_model(tmp_path / name)


def test_no_pickle_is_executed(tmp_path):
    import pickle

    file = write_archive(tmp_path / "evil.pt", pickle.dumps(Call(Path.touch, tmp_path / "touched"), 2))
    with pytest.raises(ValueError, match=r"evil\.pt"):
        load_model(file)
    assert not (tmp_path / "touched").exists()
