"""A run whose backbone is one of transformers: saved as its configuration, so that nothing is fetched again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from pst.train import fit, load_config, load_trained  # noqa: E402
from pst.train.state import read_weights  # noqa: E402
from train_runs import settings  # noqa: E402


def test_a_run_by_the_name_of_a_folder_is_loaded_without_it(tmp_path: Path) -> None:
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=28
    )
    folder = tmp_path / "network"
    config.save_pretrained(folder)
    more = {"encoder": f"hf:{folder}", "max_steps": 1}
    plain = settings("segment", tmp_path, **more)
    plain["model_args"] = {**plain["model_args"], "encoder_options": {"width": 16, "frozen": True}}
    run = fit(load_config("segment", overrides=plain))
    (folder / "config.json").unlink()
    weights, saved, _ = read_weights(run / "last.safetensors")
    assert saved["encoder"]["model_type"] == "dinov2"
    task, model = load_trained(run / "last.safetensors")
    assert task.config.task == "segment"
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("text", ["true", "false"])
def test_options_of_the_network_are_read_by_their_type_on_the_command_line(text: str, tmp_path: Path) -> None:
    del tmp_path
    overrides = ["data=x", f"model_args.encoder_options.frozen={text}", "model_args.encoder_options.width=16"]
    config = load_config("segment", overrides=overrides)
    assert config.model_args == {"encoder_options": {"frozen": text == "true", "width": 16}}
