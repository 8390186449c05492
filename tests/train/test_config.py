"""Settings: defaults under a file under overrides; every mistake is named before any work."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from messages import says
from pst.train import load_config
from pst.train.config import CONFIGS, ClassifyConfig, SegmentConfig
from pst.train.state import as_yaml

DOCUMENT = Path(__file__).parents[2] / "docs" / "train.md"


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: here\nepochs: 7\nlr: 1e-4\n")
    config = load_config("classify", file, ["epochs=9", "model=resnet18", "amp=bf16"])
    assert (config.data, config.epochs, config.lr, config.amp) == ("here", 9, 1e-4, "bf16")
    assert config.batch == load_config("classify", overrides={"data": "x"}).batch


def test_a_key_inside_another_is_reached_with_a_dot(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: d\nmodel_args: {depth: 2, width: 1}\n")
    config = load_config("classify", file, ["model_args.width=8", "stochastic_topk.choices=[0, 4]"])
    assert config.model_args == {"depth": 2, "width": 8}
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


def test_tuples_and_paths_of_python_are_what_a_file_gives(tmp_path):
    given = {"data": tmp_path, "out": tmp_path / "run", "mean": (0.5, 0.25, 0.125), "std": [0.5] * 3}
    config = SegmentConfig(**given, model_args={"a": ((1, 2), {"b": tmp_path})})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.resolved()))
    assert load_config("segment", file).resolved() == config.resolved()
    assert config.mean == [0.5, 0.25, 0.125]
    assert config.model_args == {"a": [[1, 2], {"b": str(tmp_path)}]}
    assert load_config("segment", overrides=config.resolved() | {"model_args": {"a": (1,)}}).model_args == {"a": [1]}


@pytest.mark.parametrize("value", [object, np.float64(0.5), {(1, 2): 3}, torch.zeros(2)])
def test_what_yaml_cannot_hold_is_refused_before_work(value):
    with pytest.raises(TypeError, match=says("model_args holds … , a … YAML")):
        ClassifyConfig(data="d", model_args={"a": [value]})


def test_the_usual_warm_up_follows_the_epochs_of_a_file_that_leaves_it_open(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(as_yaml(load_config("classify", overrides=["data=d", "epochs=50"])))
    assert "warmup_epochs: null" in file.read_text()
    for epochs, warmup in ((50, 3), (10, 1), (2, 0)):
        assert load_config("classify", file, [f"epochs={epochs}"]).warmup == warmup


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=d", "epoch=3"], "unknown key 'epoch' for classify: did you mean 'epochs'?"),
        (["data=d", "modle=x"], "did you mean 'model'?"),
        (["epochs=3"], "'data' is missing"),
        (["data=d", "epochs"], "expected key=value, got 'epochs'"),
        (["data=d", "epochs=three"], "epochs must be an integer, got 'three'"),
        (["data=d", "epochs=1.5"], "epochs must be an integer, got '1.5'"),
        (["data=d", "epochs=true"], "epochs must be an integer, got 'true'"),
        (["data=d", "lr=fast"], "lr must be a number, got 'fast'"),
        (["data=d", "pretrained=1"], "pretrained must be true or false, got '1'"),
        (["data=d", "amp=fp8"], "amp must be one of none, fp16, bf16, got 'fp8'"),
        (["data=d", "device=cuda:0"], "device must be one of auto, cpu, cuda, got 'cuda:0': did you mean 'cuda'?"),
        (["data=d", "epochs=0"], "epochs must be ≥ 1, got 0"),
        (["data=d", "imgsz=3"], "imgsz must be from 16 to 16384, got 3"),
        (["data=d", "lr=-1"], "lr must be ≥ 0, got -1.0"),
        (["data=d", "lr=nan"], "lr must be ≥ 0, got nan"),
        (["data=d", "trainable=gate"], "trainable=gate needs topk > 0"),
        (["data=d", "stochastic_topk={choice: [1]}"], "stochastic_topk takes choices and share, got choice"),
        (["data=d", "model_args.topk=8"], "model_args has topk, which is set on the whole model: … set topk=…"),
        (["data=d", "model_args={a: {max_tokens: 4}}"], "model_args has max_tokens, which is set on the whole model"),
        (["data=d", "task=detect"], "the settings are of the task 'detect', wanted 'classify'"),
        (["data=d", "model_args=[unclosed"], "is not YAML"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is compared below
        load_config("classify", overrides=overrides)
    assert re.search(says(message), str(error.value))


TEXTS = (
    *("my data #3", "007", "0x1F", "1e3", "yes", "No", "2020-01-01", "12:30:00", "1_000", "true", "~", "a: b", "a=b"),
    *("[x]", "{x}", "${oc.env:HOME}", "$HOME", "'quoted'", "- a", "*a", "&a", "!!python/name:os.system", "%41"),
    *("ü 画 \n", "#", " "),
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text_on_the_command_line_and_in_a_run_folder(text, tmp_path):
    config = load_config("classify", overrides=[f"data={text}", f"out={text}", f"weights={text}", f"model={text}"])
    assert (config.data, config.out, config.weights, config.resolved()["model"]) == (text,) * 4
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.resolved(), allow_unicode=True), encoding="utf-8")
    assert load_config("classify", file) == load_config("classify", overrides={**config.resolved()})


@pytest.mark.parametrize(
    "text", ["007", "yes", "2020-01-01", "1e3", "12:30:00", "true", "no", "1_000", "${oc.env:HOME}"]
)
def test_text_stays_text_in_a_file(text, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(f"data: {text}\nout: {text} # a comment\nmodel: {text}\n")
    config = load_config("classify", file)
    assert (config.data, config.out, config.resolved()["model"]) == (text,) * 3


def test_null_is_for_what_may_be_none(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: null\nout:\nwarmup_epochs: ~\nweights: 'null'\n")
    with pytest.raises(ValueError, match="line 1: data must be text, got null"):
        load_config("classify", file)
    file.write_text("data: d\nout:\nwarmup_epochs: ~\nweights: 'null'\nstochastic_topk: null\n")
    config = load_config("classify", file)
    assert (config.out, config.warmup_epochs, config.weights) == (None, None, "null")
    config = load_config("classify", file, ["out=null", "warmup_epochs=none", "stochastic_topk=None", "data=null"])
    assert (config.out, config.warmup_epochs, config.stochastic_topk, config.data) == (None, None, None, "null")


def test_a_value_is_read_by_the_type_of_its_field(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "data: d\nepochs: 010\nlr: 1e-3\npretrained: yes\nbatch: '8'\nmodel_args: {a: 1e-3, b: 2020-01-01, c: yes}"
    )
    config = load_config(
        "classify", file, ["weight_decay=1", "tensorboard=False", "model_args.d=x #3", "model_args.e=7"]
    )
    assert (config.epochs, config.lr, config.pretrained, config.batch) == (10, 1e-3, True, 8)
    assert (config.weight_decay, config.tensorboard) == (1.0, False)
    assert config.model_args == {"a": 1e-3, "b": "2020-01-01", "c": "yes", "d": "x #3", "e": 7}


def test_a_key_deep_inside_is_reached_and_its_neighbours_stay():
    deep = ["data=d", "model_args={backbone_options: {a: 1}}", "model_args.backbone_options.b='007'"]
    assert load_config("detect", overrides=deep).model_args == {"backbone_options": {"a": 1, "b": "007"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: d\ndata: e\n", "the key 'data' twice, line 2"),
        ("data: d\nmodel_args: {a: 1, a: 2}\n", "the key 'a' twice, line 2"),
        ("data: d\nepoch: 3\n", "line 2: unknown key 'epoch' for classify: did you mean 'epochs'?"),
        ("data: d\nlr: fast\n", "line 2: lr must be a number"),
        ("data: d\n1: 2\n", "line 2: unknown key '1'"),
        ("data: d\n[a, b]: 2\n", "a key must be one word"),
        ("data: [d]\n", "line 1: data must be text, got ['d']"),
        ("data: &a [*a]\n", "a value that holds itself, line 1"),
        ("data: !!python/object/apply:os.getcwd []\n", "the tag"),
        ("data: !!python/name:os.system ''\n", "the tag"),
        ("data: d\n---\ndata: e\n", "is not YAML"),
        ("data: 'd\n", "is not YAML"),
        ("data: d\n\tout: e\n", "is not YAML"),
        ("[" * 100_000, "is not YAML"),
        ("a\0b: c", "no text"),
        ("", "it holds nothing"),
        ("# only\n", "it holds nothing"),
        ("just text", "it holds a single value"),
        ("task: detect\ndata: d\n", "of the task 'detect'"),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_line(text, message, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is compared below
        load_config("classify", file)
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_another_encoding_is_named_and_a_mark_at_its_start_is_no_key(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("data: ü\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"a\.yaml:1 is not UTF-8"):
        load_config("classify", file)
    file.write_bytes(b"\xef\xbb\xbf" + "data: ü\n".encode())
    assert load_config("classify", file).data == "ü"
    with pytest.raises(FileNotFoundError, match="no YAML file"):
        load_config("classify", tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        *("epochs=0", "epochs=99999999999", "batch=-1", "accumulate=0", "imgsz=0", "imgsz=100000", "workers=-1"),
        *("workers=9999", "seed=-1", "seed=4294967296", "max_steps=-1", "val_every=0", "save_steps=-1", "topk=-2"),
        *("lr=-1", "lr=inf", "lr=nan", "min_lr=-1", "weight_decay=-1", "momentum=1", "momentum=-1", "clip_grad=nan"),
        *("crop_scale=0", "crop_scale=5", "crop_scale=-1", "smoothing=1", "smoothing=2", "mixup=-1", "cutmix=inf"),
        *("warmup_epochs=-1", "warmup_epochs=99", "calibrate=-1", "scheduler=cosin", "scheduler=plateau", "amp=FP16"),
        *("stochastic_topk={choices: [a]}", "stochastic_topk={choices: []}", "stochastic_topk={choices: 4}"),
        *("stochastic_max_tokens={choices: [0]}", "stochastic_max_tokens={choices: [x]}", "max_tokens=0"),
        *("stochastic_topk={share: 2}", "stochastic_topk={share: x}", "stochastic_topk=[4]", "stochastic_topk=4"),
        *("stochastic_topk.share=.nan", "model_args=5", "model_args={1: 2}", "epochs.x=3", "device=CPU", "cache=disk"),
        *("skip_corrupt=2", "epochs=1e2", "epochs=0x10", "seed=1_0", "lr=1_0", "batch=", "data=", "out="),
    ],
)
def test_values_out_of_range_are_named_with_what_they_may_be(setting):
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is compared below
        load_config("classify", overrides=["model=resnet18", *([] if setting == "data=" else ["data=d"]), setting])
    key = setting.partition("=")[0].partition(".")[0]
    assert str(error.value).startswith(key)
    assert any(word in str(error.value) for word in ("must be", "has no value"))


@pytest.mark.parametrize("setting", ["zoom=0.5", "zoom=inf", "jitter=1.5", "jitter=-1"])
def test_ranges_of_the_other_tasks(setting):
    for task in ("detect", "segment"):
        with pytest.raises(ValueError, match=f"{setting.partition('=')[0]} must be"):
            load_config(task, overrides=["data=d", setting])


def test_the_limits_themselves_are_in_range():
    for setting in (
        "crop_scale=1",
        "smoothing=0",
        "momentum=0",
        "warmup_epochs=50",
        "seed=4294967295",
        "topk=100000",
        "imgsz=16",
    ):
        load_config("classify", overrides=["data=d", setting])
    load_config("segment", overrides=["data=d", "zoom=1", "jitter=1"])


def test_mixup_takes_pairs():
    with pytest.raises(ValueError, match="batch must be even, got 3"):
        load_config("classify", overrides=["data=d", "mixup=0.2", "batch=3"])
    load_config("classify", overrides=["data=d", "batch=3"])


def test_one_text_in_the_place_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"a list of key=value, got the text 'data=x': write \['data=x'\]"):
        load_config("classify", overrides="data=x")


def test_the_last_of_several_values_counts():
    assert load_config("classify", overrides=["data=d", "lr=1", "lr=2"]).lr == 2


def test_a_key_is_a_word():
    for text in ("=3", "a b=3", "1=2", ".epochs=2", "epochs.=3"):
        with pytest.raises(ValueError, match="expected key=value"):
            load_config("classify", overrides=["data=d", text])


@pytest.mark.parametrize(
    "text", ["model_args={a: b", "model_args=[1, 2] # three", "model_args.a='b' c", "model_args=" + "[" * 9999]
)
def test_what_is_not_understood_inside_a_mapping_is_refused(text):
    with pytest.raises(ValueError, match=r"model_args"):
        load_config("classify", overrides=["data=d", text])


def test_a_setting_of_another_task_is_unknown():
    with pytest.raises(ValueError, match="unknown key 'crop_scale' for detect"):
        load_config("detect", overrides=["data=d", "crop_scale=0.1"])


def test_a_file_must_exist_and_hold_a_mapping(tmp_path):
    with pytest.raises(FileNotFoundError, match="no YAML file"):
        load_config("classify", tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="it holds a list"):
        load_config("classify", tmp_path / "list.yaml")
    (tmp_path / "list.yaml").write_text("data: d\n" + "# x\n" * 300_000)
    with pytest.raises(ValueError, match="1,200,008 bytes, more than"):
        load_config("classify", tmp_path / "list.yaml")
    with pytest.raises(ValueError, match="unknown task 'clasify'"):
        load_config("clasify")


def test_the_page_about_training_names_every_setting_and_shows_commands_that_are_understood():
    text = re.sub(r"\\\n *", "", DOCUMENT.read_text(encoding="utf-8"))
    for kind in CONFIGS.values():
        missing = [field.name for field in fields(kind) if f"`{field.name}`" not in text]
        assert not missing
    commands = re.findall(r"^(?:.* -m )?pst train (\w+) (.*)$", text, re.MULTILINE)
    assert len(commands) >= 8
    for task, rest in commands:
        load_config(task, overrides=[word for word in shlex.split(rest, comments=True) if "=" in word])
