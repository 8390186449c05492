"""Settings of a run that change what is trained, and what stops one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import pst
import tiny_data
from pst.io.checkpoints import load_safetensors, save_safetensors
from pst.train import evaluate, fit, load_config, load_trained, loop, sweep
from pst.train.losses import LossError
from pst.train.models import build
from pst.train.predict import predict_images
from pst.train.tasks import make_task
from train_runs import TASKS, settings


def train(task, root, **more):
    return fit(load_config(task, overrides=settings(task, root, epochs=1, **more)))


def changed(run, before):
    after = load_safetensors(run / "last.safetensors")[0]
    return {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("task", TASKS)
def test_k_fusion_and_rule_reach_every_layer(task, tmp_path):
    config = load_config(task, overrides=settings(task, tmp_path, topk=3, fusion="refine", selection="mass"))
    model = build(make_task(config))
    layers = [m for m in model.modules() if isinstance(m, pst.PyramidSparseAttention)]
    assert layers
    assert {(m.topk, m.fusion, m.selection) for m in layers} == {(3, "refine", "mass")}


@pytest.mark.parametrize(
    ("task", "rival"),
    [
        ("classify", {"model": "test_resnet"}),
        ("detect", {"neck": "fpn"}),
        ("detect", {"neck": "none"}),
        ("segment", {"neck": "fpn"}),
        ("segment", {"neck": "none"}),
    ],
)
def test_the_rivals_have_no_pst_and_the_same_data_and_recipe(task, rival, tmp_path):
    run = train(task, tmp_path, **rival)
    assert [row["topk"] for row in sweep(run)] == [0]  # has no k to sweep
    remedy = "; train one with neck=pst" if "neck" in rival else ""
    with pytest.raises(ValueError, match=f"has no PST layer: topk must be 0, got 4{remedy}$"):
        evaluate(run, topk=4)


def test_the_gate_alone(tmp_path):
    first = train("classify", tmp_path)
    before = load_safetensors(first / "last.safetensors")[0]
    tuned = {"out": str(tmp_path / "tuned"), "weights": str(first / "last.safetensors")}
    run = train("classify", tmp_path, topk=4, trainable="gate", **tuned)
    moved = changed(run, before)
    assert moved
    assert all(".gate." in name for name in moved)


def test_stochastic_k_trains_the_gate_and_validates_with_the_models_own(tmp_path):
    choices = {"choices": [4], "share": 1.0}
    start = train("classify", tmp_path, max_steps=1)
    before = load_safetensors(start / "last.safetensors")[0]
    for more, gate_moves in (({}, False), ({"stochastic_topk": choices}, True)):
        options = {"weights": str(start / "last.safetensors"), "out": str(tmp_path / str(gate_moves)), **more}
        run = train("classify", tmp_path, optimizer="sgd", weight_decay=0.0, **options)
        assert any(".gate." in name for name in changed(run, before)) == gate_moves
        last = (run / "results.csv").read_text().splitlines()[-1].split(",")
        assert list(evaluate(run)["metrics"].values()) == pytest.approx([float(cell) for cell in last[-3:]])  # k = 0


def test_a_bound_is_trained_with_kept_and_measured(tmp_path):
    run = train("segment", tmp_path, max_tokens=4, stochastic_max_tokens={"choices": [1, None], "share": 1.0})
    _, model = load_trained(run)
    pst.set_max_tokens(model, None)
    rows = list(sweep(run, topk=[0], max_tokens=[1, None]))
    assert [row["max_tokens"] for row in rows] == [1, None]
    assert rows[0]["gflops"] < rows[1]["gflops"]
    (own,) = sweep(run, topk=[0])
    assert own["max_tokens"] == 4
    assert own["miou"] == evaluate(run)["metrics"]["miou"]


@pytest.mark.parametrize("task", TASKS)
def test_calibration_gives_the_fine_map_statistics_that_travel_with_the_weights(task, tmp_path):
    run = train(task, tmp_path, calibrate=2)
    for name in ("best", "last"):
        _, model = load_trained(run / f"{name}.safetensors")
        layers = [m for m in model.modules() if isinstance(m, pst.PyramidSparseAttention)]
        assert all(layer.fine_statistics is not None for layer in layers)


def test_tracked_statistics_travel_too(tmp_path):
    _, model = load_trained(train("classify", tmp_path, track_fine_statistics=True))
    layers = [m for m in model.modules() if isinstance(m, pst.PyramidSparseAttention)]
    assert all(layer.fine_statistics is not None for layer in layers)


@pytest.mark.parametrize("more", [{"mixup": 0.5}, {"cutmix": 1.0}, {"amp": "bf16"}, {"scheduler": "none"}])
def test_a_run_with(more, tmp_path):
    run = train("classify", tmp_path, clip_grad=1.0, **more)
    assert all(bool(t.isfinite().all()) for t in load_safetensors(run / "last.safetensors")[0].values())


def test_mask_rcnn_trains_on_coco_masks_and_refuses_data_without(tmp_path):
    tiny_data.coco(tmp_path / "data")
    few = {**TASKS["detect"]["model_args"], "box_detections_per_img": 4}  # each has a mask to compute
    run = train("detect", tmp_path, model="mask_rcnn", max_steps=1, model_args=few)
    assert "loss_mask" in (run / "results.csv").read_text()
    assert 0 <= evaluate(run)["metrics"]["map"] <= 1
    with pytest.raises(ValueError, match="need a COCO file"):
        train(
            "detect", tmp_path, model="mask_rcnn", data=str(tiny_data.yolo(tmp_path / "yolo")), out=str(tmp_path / "b")
        )


@pytest.mark.parametrize("model", ["retinanet", "faster_rcnn"])
def test_other_detectors_learn_the_same_labels(model, tmp_path):
    result = evaluate(train("detect", tmp_path, model=model, max_steps=2))
    labels = {label for image in result["columns"]["labels"] for label in image}
    assert labels <= {0, 1, 2}
    assert sum(sum(n.values()) for n in result["columns"]["objects"]) == 4


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(tmp_path):
    with pytest.raises(LossError, match="the loss is not finite") as error:
        train("classify", tmp_path, lr=1e30, optimizer="sgd", accumulate=1, batch=3)
    file = tmp_path / "run" / "bad-batch-0.pt"
    assert str(file) in str(error.value)
    batch = torch.load(file, weights_only=True)
    assert batch["inputs"].shape == (3, 3, 32, 32)
    assert len(batch["images"]) == len(batch["targets"]) == 3
    assert all((tmp_path / "data" / "train").as_posix() in image for image in batch["images"])
    assert not (tmp_path / "run" / "last.safetensors").exists()  # nothing broken was saved


def test_mistakes_in_data_stop_before_any_folder_is_made(tmp_path):
    plain = settings("segment", tmp_path)
    (tmp_path / "data" / "classes.txt").write_text("ground\nred\n")
    with pytest.raises(ValueError, match=r"holds the values \[2\]"):
        fit(load_config("segment", overrides=plain))
    assert not (tmp_path / "run").exists()


def test_corrupt_images_stop_a_run_unless_they_are_to_be_skipped(tmp_path):
    plain = settings("classify", tmp_path, max_steps=1)
    tiny_data.corrupt(tmp_path / "data" / "train" / "red" / "00.png")
    with pytest.raises(ValueError, match="1 of 12 images cannot be decoded"):
        fit(load_config("classify", overrides=plain))
    run = fit(load_config("classify", overrides={**plain, "skip_corrupt": True}))
    assert (run / "last.safetensors").exists()


@pytest.mark.parametrize("task", TASKS)
def test_a_result_is_json_and_has_one_entry_for_each_image(task, tmp_path):
    result = json.loads(json.dumps(evaluate(train(task, tmp_path), topk=2, fusion="refine", batch=3)))
    count = {"classify": 6, "detect": 4, "segment": 4}[task]
    assert len(result["images"]) == count
    assert all(len(column) == count for column in result["columns"].values())
    assert (result["task"], result["topk"], result["fusion"], result["batch"]) == (task, 2, "refine", 3)
    if task == "classify":
        assert result["metrics"]["top1"] == pytest.approx(sum(result["columns"]["correct"]) / count)
    if task == "segment":
        pixels = torch.tensor(result["columns"]["confusion"]).sum((1, 2))
        assert pixels.tolist() == [47 * 64] * count  # the row without a class and the filling do not count


def test_evaluation_depends_on_nothing_but_weights_and_settings(tmp_path):
    run = train("segment", tmp_path)
    one = evaluate(run, topk=4)["columns"]
    torch.rand(3)
    assert evaluate(run, topk=4)["columns"] == one


def test_a_sweep_runs_k_0_once(tmp_path):
    rows = list(sweep(train("classify", tmp_path), topk=[0, 2], fusion=["gate", "refine"]))
    assert [(row["fusion"], row["topk"], row["images"]) for row in rows] == [
        ("none", 0, 6),
        ("gate", 2, 6),
        ("refine", 2, 6),
    ]
    columns = (
        "fusion",
        "topk",
        "max_tokens",
        "top1",
        "top5",
        "f1",
        "latency_ms",
        "peak_memory_mb",
        "gflops",
        "images",
        "imgsz",
    )
    assert {tuple(row) for row in rows} == {columns}


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_safetensors({"w": torch.ones(1)}, path, {})
    with pytest.raises(ValueError, match="was not written by pst train"):
        load_trained(path)
    with pytest.raises(FileNotFoundError):
        load_trained(tmp_path / "none")


def test_the_loop_stays_short():
    assert Path(loop.__file__).read_text().count("\n") <= 220


def test_tensorboard_holds_the_figures_of_the_csv_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("classify", tmp_path, tensorboard=True)
    board = EventAccumulator(str(run)).Reload()
    names, values = (line.split(",") for line in (run / "results.csv").read_text().splitlines())
    assert set(board.Tags()["scalars"]) == set(names)
    for name, value in zip(names, values, strict=True):
        assert [event.value for event in board.Scalars(name)] == [pytest.approx(float(value))]


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path):
    plain = settings("segment", tmp_path)
    file = tmp_path / "data" / "masks" / "train2.png"
    with Image.open(file) as mask:
        mask.resize((10, 12), Image.Resampling.NEAREST).save(file)
    with pytest.raises(ValueError, match=r"train2\.png is 10×12, its image 64×48: expected one size"):
        fit(load_config("segment", overrides=plain))


def test_annotations_for_another_size_are_refused(tmp_path):
    root = tiny_data.coco(tmp_path / "data")
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text.replace('"width": 64', '"width": 65'))
    with pytest.raises(ValueError, match=r"is 64×48, .*annotations say 65×48"):
        fit(load_config("detect", overrides=settings("detect", tmp_path)))


def test_a_model_is_not_evaluated_on_other_classes(tmp_path):
    run = train("segment", tmp_path, max_steps=1)
    other = tiny_data.masks(tmp_path / "other")
    (other / "classes.txt").write_text("ground\nred\nblue\ngreen\n")
    with pytest.raises(ValueError, match=r"has the classes .*, the model"):
        evaluate(run, data=str(other))


def test_a_trained_model_keeps_the_k_fusion_and_rule_of_its_run(tmp_path):
    own: dict[str, Any] = {"topk": 3, "fusion": "refine", "selection": "mass"}
    run = train("classify", tmp_path, **own)
    layers = [m for m in load_trained(run)[1].modules() if isinstance(m, pst.PyramidSparseAttention)]
    assert layers
    assert {(m.topk, m.fusion, m.selection) for m in layers} == {(3, "refine", "mass")}
    found = evaluate(run)
    assert {name: found[name] for name in own} == own
    image = next((tmp_path / "data").rglob("*.png"))
    choices: list[dict[str, Any]] = [{}, own, {"topk": 0}]
    scores = [predict_images(run, [image], tmp_path / str(i), **k) for i, k in enumerate(choices)]
    assert scores[0] == scores[1] != scores[2]
