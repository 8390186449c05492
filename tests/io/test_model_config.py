"""A configuration from a file builds models and fetches nothing."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pst.integrations.segmentation import PSTSegmenter
from pst.integrations.timm.classifier import PSTClassifier
from pst.integrations.torchvision import PSTDetector
from pst.io.checkpoints import save_safetensors
from pst.io.model_config import at_most, check_model_config
from pst.io.transfer import load_weights
from pst.train import load_trained

GOOD = {
    "backbone": "resnet10t.c3_in1k",
    "num_classes": 1000,
    "topk": [0, 8],
    "drop_path_rate": 0.1,
    "pretrained": False,
    "options": {"norm": None, "img_size": [64, 64]},
    "selection": ["window", {"grid": 2}],
}


def test_what_describes_a_model_is_accepted() -> None:
    check_model_config(GOOD, "a")


@pytest.mark.parametrize(
    "change",
    [
        {"pretrained": True}, {"pretrained": "a1_in1k"}, {"pretrained_cfg": {"url": "x"}}, {"checkpoint_path": "x.pth"},
        {"pretrained_cfg_overlay": {"file": "x"}}, {"encoder_weights": "imagenet"}, {"weights_backbone": "DEFAULT"},
        {"cache_dir": "x"}, {"options": {"body_options": {"pretrained": True}}}, {"backbone": "hf-hub:me/evil"},
        {"backbone": "local-dir:x"}, {"backbone": "../x"}, {"backbone": "http://127.0.0.1:1/x"}, {"backbone": "a\\b"},
        {"width": 10**9}, {"width": math.inf}, {"width": math.nan}, {"topk": [[[[[[[[1]]]]]]]]},
        {"topk": list(range(20_000))}, {"backbone": "a\x1b[2J"},
    ],
)  # fmt: skip
def test_sources_paths_and_bombs_are_not(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^a is not loaded: its configuration has "):
        check_model_config(GOOD | change, "a")


@pytest.mark.parametrize("config", [None, [], 3, "x"])
def test_other_json_is_not(config: Any) -> None:
    with pytest.raises(ValueError, match="is not loaded: its configuration is a"):
        check_model_config(config, "a")


@pytest.mark.parametrize(
    ("kind", "args", "change"),
    [
        (PSTClassifier, {"backbone": "resnet10t", "num_classes": 2}, {"pretrained": True}),
        (PSTClassifier, {"backbone": "resnet10t", "num_classes": 2}, {"pretrained_cfg": {"url": "http://127.0.0.1:1"}}),
        (PSTClassifier, {"backbone": "resnet10t", "num_classes": 2}, {"backbone": "hf-hub:nobody/nothing"}),
        (PSTClassifier, {"backbone": "resnet10t", "num_classes": 2}, {"pst_settings": {"": {"topk": 1}}}),
        (PSTClassifier, {"backbone": "resnet10t", "num_classes": 2}, {"pst_settings": {"fuse.blocks.0.attn": []}}),
        (PSTSegmenter, {"encoder_name": "resnet10t"}, {"encoder_weights": "imagenet"}),
        (PSTSegmenter, {"encoder_name": "resnet10t"}, {"encoder_options": {"checkpoint_path": "x.pth"}}),
        (
            PSTDetector, {"kind": "fcos", "backbone": "resnet10t", "num_classes": 2},
            {"backbone_options": {"pretrained": True}},
        ),
    ],
)  # fmt: skip
def test_a_folder_that_wants_more_is_not_loaded(
    kind: Any, args: dict[str, Any], change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind(**args).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    kind.from_pretrained(tmp_path)  # as it was written it is
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    def fetch(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"fetches {args}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    monkeypatch.setattr("timm.models._builder.load_pretrained", fetch)
    with pytest.raises(ValueError, match=r"is not loaded|none of its model's"):
        kind.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"model": "vit_giant_patch14_dinov2"}, {"model_args": {"layers": [100_000] * 4}}])
def test_settings_of_a_model_far_larger_than_its_weights_build_none(change: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    settings = {"task": "classify", "data": "x", "imgsz": 32, "model": "test_resnet"} | change
    save_safetensors({"a": torch.zeros(3)}, file, {"pst_train": json.dumps({"config": settings, "classes": ["b"]})})
    with pytest.raises(ValueError, match=r"a\.safetensors is not loaded: .* far more than the 3 numbers"):
        load_trained(file)


def test_a_folder_of_a_model_far_larger_than_its_weights_builds_none(tmp_path: Path) -> None:
    PSTClassifier("resnet10t", num_classes=2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"backbone": "vit_giant_patch14_dinov2"}))
    with pytest.raises(ValueError, match=r"model\.safetensors is not loaded"):
        PSTClassifier.from_pretrained(tmp_path)


def test_a_number_that_no_float_holds_and_a_key_that_a_terminal_obeys_are_said() -> None:
    with pytest.raises(ValueError, match=r"a number beyond 100,000"):
        check_model_config({"width": 10**400}, "config.json")
    with pytest.raises(ValueError, match=r"has \\x1b\[2J=") as caught:
        check_model_config({"\x1b[2J": math.inf}, "config.json")
    assert "\x1b" not in str(caught.value)
    with pytest.raises(ValueError, match="1 unknown") as caught:
        load_weights(torch.nn.Linear(1, 1), {**torch.nn.Linear(1, 1).state_dict(), "\x1b[2J": torch.zeros(1)})
    assert "\x1b" not in str(caught.value)


def test_layers_of_another_thread_are_not_counted() -> None:
    made: list[torch.nn.Module] = []
    other = threading.Thread(target=lambda: made.append(torch.nn.Linear(8000, 8000)))
    with at_most(10, "small.safetensors"):
        other.start()
        other.join()
        with pytest.raises(ValueError, match=r"small\.safetensors is not loaded"):
            torch.nn.Linear(8000, 8000)
    assert len(made) == 1
