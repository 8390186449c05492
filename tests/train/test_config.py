"""Settings: defaults under a file under overrides; every mistake is named before any work."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from pst.train import load_config
from pst.train.config import CONFIGS

DOCUMENT = Path(__file__).parents[2] / "docs" / "train.md"


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: here\nepochs: 7\nlr: 1e-4\n")
    config = load_config("classify", file, ["epochs=9", "model=resnet18", "amp=bf16"])
    assert (config.data, config.epochs, config.lr, config.amp) == ("here", 9, 1e-4, "bf16")
    assert config.batch == load_config("classify", overrides={"data": "x"}).batch


def test_a_key_inside_another_is_reached_with_a_dot(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: d\nmodel_args: {depth: 2, topk: 1}\n")
    config = load_config("classify", file, ["model_args.topk=8", "stochastic_topk.choices=[0, 4]"])
    assert config.model_args == {"depth": 2, "topk": 8}
    assert config.stochastic_topk == {"choices": [0, 4]}


@pytest.mark.parametrize("task", CONFIGS)
def test_the_resolved_settings_are_a_configuration_again(task, tmp_path):
    config = load_config(task, overrides=["data=d", "epochs=40", "weight_decay=0", "model_args={a: [1, 2]}"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.resolved()))
    again = load_config(task, file)
    assert again.resolved() == config.resolved()
    assert again.task == task
    assert config.resolved()["warmup_epochs"] == 3  # resolved, not null


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=d", "epoch=3"], "unknown key 'epoch' for classify: did you mean 'epochs'?"),
        (["data=d", "modle=x"], "did you mean 'model'?"),
        (["epochs=3"], "'data' is missing"),
        (["data=d", "epochs"], "expected key=value, got 'epochs'"),
        (["data=d", "epochs=three"], "epochs must be int, got 'three'"),
        (["data=d", "epochs=1.5"], "epochs must be int, got 1.5"),
        (["data=d", "epochs=true"], "epochs must be int, got True"),
        (["data=d", "lr=fast"], "lr must be float, got 'fast'"),
        (["data=d", "pretrained=1"], "pretrained must be bool, got 1"),
        (["data=d", "amp=fp8"], r"amp must be ['none', 'fp16', 'bf16'], got 'fp8'"),
        (["data=d", "epochs=0"], "epochs must be ≥ 1, got 0"),
        (["data=d", "lr=-1"], "lr must be ≥ 0, got -1.0"),
        (["data=d", "lr=.nan"], "lr must be ≥ 0, got nan"),
        (["data=d", "trainable=gate"], "trainable=gate needs topk > 0"),
        (["data=d", "stochastic_topk={choice: [1]}"], "stochastic_topk takes choices and share, got choice"),
        (["data=d", "task=detect"], "the settings are of the task 'detect', wanted 'classify'"),
        (["data=[unclosed"], "is not YAML"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is compared below
        load_config("classify", overrides=overrides)
    assert message in str(error.value)


def test_a_setting_of_another_task_is_unknown():
    with pytest.raises(ValueError, match="unknown key 'crop_scale' for detect"):
        load_config("detect", overrides=["data=d", "crop_scale=0.1"])


def test_a_file_must_exist_and_hold_a_mapping(tmp_path):
    with pytest.raises(FileNotFoundError, match="no YAML file"):
        load_config("classify", tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="it holds list"):
        load_config("classify", tmp_path / "list.yaml")
    with pytest.raises(ValueError, match="unknown task 'clasify'"):
        load_config("clasify")


def test_the_page_about_training_names_every_setting_and_shows_commands_that_are_understood():
    text = DOCUMENT.read_text(encoding="utf-8")
    for kind in CONFIGS.values():
        missing = [field.name for field in fields(kind) if f"`{field.name}`" not in text]
        assert not missing
    commands = re.findall(r"^(?:.* -m )?pst train (\w+) (.*)$", text, re.MULTILINE)
    assert len(commands) >= 8
    for task, rest in commands:
        load_config(task, overrides=[word for word in shlex.split(rest, comments=True) if "=" in word])
