"""`weights=` of runs with other classes, other models, other tasks."""

from __future__ import annotations

import json

import pytest
import torch

from pst.io.checkpoints import load_safetensors, save_safetensors
from pst.train import load_config, load_trained
from pst.train.models import build
from pst.train.state import save_weights
from pst.train.tasks import make_task
from train_runs import TASKS

HEADS = {
    "classify": "head.fc.",
    "segment": "segmentation_head.",
    "fcos": "head.classification_head.cls_logits.",
    "retinanet": "head.classification_head.cls_logits.",
    "faster_rcnn": "roi_heads.box_predictor.",
    "mask_rcnn": ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits."),
}


def task_of(name, classes, **more):
    kind = name if name in TASKS else "detect"
    model = {} if name in TASKS else {"model": name}
    config = load_config(kind, overrides={**TASKS[kind], "data": "none", **model, **more})
    return make_task(config, classes)


def written(path, name, classes, **more):
    """Weights of a run, without training one."""
    task = task_of(name, classes, **more)
    torch.manual_seed(1)
    model = task.build(pretrained=False)
    save_weights(path, model, task)
    return model.state_dict()


@pytest.mark.parametrize("name", HEADS)
def test_other_numbers_of_classes_leave_the_class_layers_fresh(name, tmp_path, caplog):
    file = tmp_path / "w.safetensors"
    old = written(file, name, ("a", "b"))
    torch.manual_seed(2)
    new = build(task_of(name, ("a", "b", "c"), weights=str(file))).state_dict()
    fresh = {entry for entry in new if entry.startswith(HEADS[name])}
    assert fresh == {entry for entry in new if new[entry].shape != old[entry].shape}
    assert all(torch.equal(new[entry], old[entry]) for entry in new if entry not in fresh)
    (record,) = caplog.records
    line = record.getMessage()
    assert "has 2 classes, the data 3" in line
    assert all(entry in line for entry in fresh)


def test_fresh_class_layers_are_not_left_frozen(tmp_path):
    written(tmp_path / "w.safetensors", "classify", ("a", "b"))
    frozen = {"weights": str(tmp_path / "w.safetensors"), "topk": 2, "trainable": "gate"}
    build(task_of("classify", ("a", "c"), **frozen))
    with pytest.raises(ValueError, match=r"head\.fc.* starts anew, and trainable=gate would leave it untrained"):
        build(task_of("classify", ("a", "b", "c"), **frozen))


def test_as_many_classes_of_other_names_load_whole_and_are_said(tmp_path, caplog):
    file = tmp_path / "best.safetensors"
    old = written(file, "classify", ("a", "b"))
    new = build(task_of("classify", ("a", "c"), weights=str(tmp_path))).state_dict()  # a run folder
    assert all(torch.equal(new[entry], old[entry]) for entry in new)
    (record,) = caplog.records
    assert "has the classes a, b, the data a, c: all weights are loaded" in record.getMessage()
    caplog.clear()
    build(task_of("classify", ("a", "b"), weights=str(file)))
    assert not caplog.records


@pytest.mark.parametrize(
    ("source", "name", "more", "parts"),
    [
        ("detect", "classify", {}, ("of task detect, model fcos", "task classify, model pst_test_resnet")),
        ("classify", "classify", {"model": "pst_resnet10t"}, ("model pst_test_resnet", "model pst_resnet10t")),
        ("classify", "classify", {"in_chans": 1}, ("in_chans 3", "in_chans 1", "of another shape")),
        ("retinanet", "fcos", {}, ("model retinanet", "model fcos")),
        ("segment", "segment", {"neck": "fpn"}, ("neck pst", "neck fpn")),
        ("fcos", "fcos", {"finest": 4}, ("task detect, the default finest, not", "task detect, finest 4")),
    ],
)
def test_weights_of_another_model_are_refused_by_name(source, name, more, parts, tmp_path):
    file = tmp_path / "w.safetensors"
    written(file, source, ("a", "b"))
    with pytest.raises(ValueError, match=r"missing|unknown|shape") as error:
        build(task_of(name, ("a", "b", "c"), weights=str(file), **more))
    assert all(part in str(error.value) for part in (*parts, str(file)))
    assert "\n" not in str(error.value)


def test_files_of_no_run_load_where_they_fit(tmp_path, caplog):
    file = tmp_path / "w.safetensors"
    old = written(file, "classify", ("a", "b"))
    save_safetensors(load_safetensors(file)[0], file, {})
    new = build(task_of("classify", ("a", "b", "c"), weights=str(file))).state_dict()
    assert torch.equal(new["head.fc.weight"], old["head.fc.weight"]) is False
    assert "another number of classes" in caplog.text
    save_safetensors({"w": torch.ones(1)}, file, {})
    with pytest.raises(ValueError, match="of a model unknown to pst train"):
        build(task_of("classify", ("a",), weights=str(file)))


def test_weights_that_contradict_their_own_settings_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    written(file, "classify", ("a", "b"))
    state, metadata = load_safetensors(file)
    content = json.loads(metadata["pst_train"])
    save_safetensors(state, file, {"pst_train": json.dumps({**content, "classes": ["a", "b", "c"]})})
    with pytest.raises(ValueError, match=r"w\.safetensors holds other weights than its settings say: .*shape"):
        load_trained(file)
    for damaged in ("[", "[]", '{"config": 3, "classes": []}', '{"config": {"task": "classify"}, "classes": [1]}'):
        save_safetensors(state, file, {"pst_train": damaged})
        with pytest.raises(ValueError, match="is damaged: its metadata pst_train"):
            load_trained(file)
