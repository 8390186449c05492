"""What can be known before training is refused before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny_data
from messages import says
from pst.io.files import WriteError
from pst.io.image_file import CorruptImageError
from pst.train import checks, fit, load_config
from pst.train.models import make_model
from pst.train.start import start
from pst.train.state import write_config
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
        ({"amp": "fp16"}, says("amp=fp16 is for GPUs … Choose amp=bf16")),
        ({"model": "test_resnet", "calibrate": 2}, "holds no PST layer"),
        ({"model": "test_resnet", "max_tokens": 16}, says("no PST layer: leave out max_tokens=16")),
        ({"model": "test_resnet", "fusion": "refine"}, says("no PST layer: leave out fusion=refine")),
        ({"model_args": {"pretrained_cfg_overlay": {"file": "w.pth"}}}, says("pretrained_cfg_overlay= … weights=…")),
        ({"model_args": {"act_layer": "a/b"}}, says("act_layer='a/b' … could not be loaded again")),
        ({"selection": "maen"}, says("selection must be one of gumbel, … got 'maen': did you mean 'mean'?")),
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


def test_cuda_is_refused_where_there_is_none_and_taken_where_there_is(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        refused("classify", tmp_path, says("there is no cuda here … PyTorch finds no CUDA … use cpu"), device="cuda")
    asked = {}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("pst.train.start.Accelerator", lambda **options: asked.update(options))
    start(load_config("classify", overrides=["data=d", "device=cuda"]))
    assert asked["cpu"] is False


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_other_tasks(task, tmp_path):
    name = {"detect": "backbone", "segment": "encoder"}[task]
    refused(task, tmp_path, "resnet88", **{name: "resnet88"})
    refused(task, tmp_path, "foo", model_args={"foo" if task == "segment" else "backbone_options": {"foo": 1}})


@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
def test_an_optimizer_with_a_generator_in_its_state(tmp_path):
    refused("classify", tmp_path, says("kron could not be resumed, choose … more than 256 parts"), optimizer="kron")


def test_settings_of_pst_layers_that_a_plain_neck_could_not_follow(tmp_path):
    refused("detect", tmp_path, says("holds no PST layer"), neck="fpn", calibrate=2)
    refused(
        "detect", tmp_path, says("leave out selection=window; train one with neck=pst"), neck="fpn", selection="window"
    )


def test_half_precision_that_a_cpu_began_goes_on_as_it_did():
    config = load_config("classify", overrides=["data=d", "amp=fp16"])
    checks.check_precision(config, torch.device("cpu"), {"scaler": None})
    checks.check_precision(config, torch.device("cuda"), None)
    with pytest.raises(ValueError, match=says("amp=fp16 is for GPUs")):
        checks.check_precision(config, torch.device("cpu"), {"scaler": {"scale": 1.0}})


@pytest.mark.parametrize("name", ["adamw", "adafactorbv", "lookahead_sgd", "muon"])
def test_the_state_of_an_optimizer_comes_back(name):
    checks.check_optimizer(load_config("classify", overrides=["data=d", f"optimizer={name}"]), torch.device("cpu"))


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


def test_data_that_are_missing_are_said_before_the_folder_that_holds_a_run(tmp_path):
    plain = settings("classify", tmp_path)
    write_config(load_config("classify", overrides=plain))
    with pytest.raises(FileNotFoundError, match=says("nothing at nope: give the folder of a data set")):
        fit(load_config("classify", overrides={**plain, "data": "nope"}))
    with pytest.raises(FileExistsError, match=says("holds a run: pass --resume")):
        fit(load_config("classify", overrides=plain))


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
    monkeypatch.setattr(checks, "is_installed", lambda name: False)
    refused("classify", tmp_path, "tensorboard=false", kind=ImportError, tensorboard=True)


@pytest.mark.parametrize("resume", [False, True])
def test_the_configuration_of_another_program_is_not_replaced(resume, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text("theirs: 1\n")
    (out / "results.csv").write_text("theirs")
    with pytest.raises(FileExistsError, match=str(out)):
        fit(load_config("classify", overrides=settings("classify", tmp_path, out=str(out))), resume=resume)
    assert (out / "config.yaml").read_text() == "theirs: 1\n"
    assert (out / "results.csv").read_text() == "theirs"


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(tmp_path):
    config = load_config("classify", overrides=settings("classify", tmp_path, epochs=1))
    config.run_dir.mkdir()
    write_config(config)
    assert (fit(config, resume=True) / "last.safetensors").exists()


def test_images_that_nobody_looks_at_cannot_be_skipped(tmp_path):
    refused("classify", tmp_path, "skip_corrupt needs check_images=true", skip_corrupt=True, check_images=False)


def test_what_a_loaders_process_refuses_is_one_sentence(tmp_path):
    plain = settings("classify", tmp_path, check_images=False, workers=1, batch=12)
    file = tiny_data.corrupt(tmp_path / "data" / "val" / "red" / "00.png")
    with pytest.raises(CorruptImageError, match=f"^{file} cannot be decoded") as error:
        fit(load_config("classify", overrides=plain))
    assert "\n" not in str(error.value)


def test_a_link_that_leads_nowhere_is_no_run_folder(tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    refused("classify", tmp_path, "a link that leads nowhere", kind=OSError, out=str(tmp_path / "out"))


def test_a_run_that_begins_meanwhile_keeps_its_folder(tmp_path, monkeypatch):
    config = load_config("classify", overrides=settings("classify", tmp_path))
    other = load_config("classify", overrides=settings("classify", tmp_path, lr=0.5))

    def begin(*_: Any) -> None:
        other.run_dir.mkdir()
        write_config(other)

    monkeypatch.setattr("pst.train.loop.check_disk", begin)
    with pytest.raises(FileExistsError, match="holds a run"):
        fit(config)
    assert "lr: 0.5" in (config.run_dir / "config.yaml").read_text()
    assert [file.name for file in config.run_dir.iterdir()] == ["config.yaml"]
