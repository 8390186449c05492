"""Gradients, learning by heart, autocast, and transformers' own Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert, box_iou
from transformers import AutoModelForObjectDetection, Trainer, TrainingArguments

import pst
from pst.integrations.transformers import add_pst
from pst.integrations.transformers.fusion import fused_blocks
from tiny_transformers import HOSTS, host_config, host_model, images, labels

CORNERS = [(4, 8, 24, 20), (28, 4, 28, 24), (8, 32, 20, 28), (32, 28, 26, 30)]  # left, top, width, height of 64 px


def pictures() -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Four grey images with a box of red, green or blue each."""
    x, targets = torch.full((4, 3, 64, 64), 0.2), []
    for i, (left, top, width, height) in enumerate(CORNERS):
        x[i, i % 3, top : top + height, left : left + width] = 1
        box = torch.tensor([[left + width / 2, top + height / 2, width, height]]) / 64
        targets.append({"class_labels": torch.tensor([i % 3]), "boxes": box})
    return x, targets


def found(model: Any, x: Tensor, targets: list[dict[str, Tensor]]) -> bool:
    """Whether the best of each image's queries has the right class and lies on the box."""
    model.eval()
    with torch.no_grad():
        out = model(x)
    model.train()
    for logits, boxes, target in zip(out.logits, out.pred_boxes, targets, strict=True):
        query, name = divmod(int(logits.argmax()), logits.shape[1])
        got, want = (box_convert(b, "cxcywh", "xyxy") for b in (boxes[query][None], target["boxes"]))
        if name != target["class_labels"] or box_iou(got, want) < 0.5:
            return False
    return True


@pytest.mark.parametrize("name", HOSTS)
def test_every_parameter_of_pst_gets_a_gradient(name):
    model = add_pst(host_model(name), topk=2).train()
    model(pixel_values=images(), labels=labels()).loss.backward()
    for block in fused_blocks(model).values():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
        assert any(p.grad.abs().sum() > 0 for p in block.parameters() if p.grad is not None)


def training(model: Any, x: Tensor, targets: list[dict[str, Tensor]], steps: int, lr: float) -> Iterator[float]:
    """Losses of AdamW's steps on the same images."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = model(pixel_values=x, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield float(loss.detach())


@pytest.mark.parametrize("name", ["rt_detr", pytest.param("rt_detr_v2", marks=pytest.mark.slow)])
def test_four_images_are_learned_by_heart(name):
    torch.manual_seed(0)
    model = add_pst(HOSTS[name][0](host_config(name, num_denoising=0)), topk=2).train()
    x, targets = pictures()
    assert not found(model, x, targets)
    losses = enumerate(training(model, x, targets, 600, 2e-3))
    assert any(step % 20 == 19 and found(model, x, targets) for step, _ in losses)


@pytest.mark.slow
def test_the_loss_of_four_images_falls_to_a_tenth_in_d_fine():
    """So small a D-FINE, with PST or without it, gives another query the highest score from step to step."""
    torch.manual_seed(0)
    model = add_pst(HOSTS["d_fine"][0](host_config("d_fine", num_denoising=0)), topk=2).train()
    losses = training(model, *pictures(), 600, 1e-3)
    first = next(losses)
    assert any(loss < first / 10 for loss in losses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", HOSTS)
def test_16_bits_give_finite_numbers(name, dtype):
    torch.manual_seed(0)
    model = add_pst(HOSTS[name][0](host_config(name)), topk=4, max_tokens=5).train()
    with torch.autocast("cpu", dtype):
        out = model(pixel_values=images(), labels=labels())
    out.loss.backward()
    assert out.logits.isfinite().all()
    assert out.loss.isfinite()
    if dtype == torch.bfloat16:  # float16's gradients need a scaler, which skips steps like this
        gradients = [p.grad for block in fused_blocks(model).values() for p in block.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)


class Pictures(Dataset[dict[str, Any]]):
    """The four images, one at a time."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        x, targets = pictures()
        return {"pixel_values": x[index], "labels": targets[index]}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": [r["labels"] for r in rows]}


def test_the_trainer_trains_saves_and_resumes(tmp_path):
    torch.manual_seed(0)
    model = add_pst(HOSTS["d_fine"][0](host_config("d_fine")), levels=[16], topk=2)
    before = model.model.encoder.fpn_blocks[0].pst.reduce.conv.weight.clone()

    def trainer(steps: int) -> Trainer:
        arguments = TrainingArguments(
            str(tmp_path), max_steps=steps, save_steps=2, per_device_train_batch_size=2, learning_rate=1e-3,
            max_grad_norm=0.1, report_to=[], use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
            eval_strategy="steps", eval_steps=2, eval_do_concat_batches=False, dataloader_pin_memory=False,
        )  # fmt: skip
        return Trainer(model, arguments, data_collator=collate, train_dataset=Pictures(), eval_dataset=Pictures())

    result = trainer(2).train()
    assert 0 < result.training_loss < 1000
    assert not torch.equal(model.model.encoder.fpn_blocks[0].pst.reduce.conv.weight, before)
    resumed = trainer(4)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    pst.set_topk(model, 5)
    resumed.save_model(str(tmp_path / "last"))
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path / "last")
    assert {layer.topk for layer in pst.control.attention_layers(loaded).values()} == {5}
    x = pictures()[0]
    assert torch.equal(loaded(x).logits, model.eval()(x).logits)
