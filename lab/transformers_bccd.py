"""D-FINE of transformers, plain and with PST, trained on a small detection set by transformers' own Trainer.

    python -m lab.transformers_bccd data/bccd --out lab/results/transformers-bccd.json

Both models start from one plain D-FINE on a pretrained EfficientNet-Lite0, which stays frozen, so that all but the
fusion blocks is the same. A model that is in the result file with the same settings is not trained again; one that was
interrupted goes on from its last epoch, in a folder beside the file. ``--steps 3`` measures a training step and
keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.transforms.v2 import functional as F
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    TimmBackboneConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

import pst
from lab.described import described
from pst.data.detection import read_boxes
from pst.data.images import decode
from pst.integrations.transformers import add_pst
from pst.io.files import write_text
from pst.propagate.features import BackboneFeatures
from pst.train.tasks.detection_metrics import coco_metrics

SIZE = (256, 320)  # height and width of what the network gets; boxes are shares of them
WIDTH, QUERIES, LAYERS = 128, 100, 3
BATCH, LR, DENOISING = 8, 5e-4, 10
FINE = (0, 8)  # k of the evaluations of a model with PST
_MOST = 100  # detections of an image that count


class Cells(Dataset[dict[str, Any]]):
    """A split in memory, every image of `SIZE`; those for training are flipped at random."""

    def __init__(self, data: Path, split: str, mean: Tensor, std: Tensor) -> None:
        found = read_boxes(data, split)
        images = [decode(file) for file in found.images]
        self.sizes = [(image.shape[2], image.shape[1]) for image in images]
        self.images = torch.stack([F.resize(image, list(SIZE), antialias=True) for image in images])
        self.targets, self.classes, self.flips = found.targets, found.classes, split == "train"
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, boxes = self.images[index], self.targets[index].boxes.clone()
        for axis, dim in ((0, 2), (1, 1)):
            if self.flips and torch.rand(()) < 0.5:
                image = image.flip(dim)
                boxes[:, [axis, axis + 2]] = 1 - boxes[:, [axis + 2, axis]]
        pixels = (image.float() / 255 - self.mean) / self.std
        boxes = box_convert(boxes, "xyxy", "cxcywh")
        return {"pixel_values": pixels, "labels": {"class_labels": self.targets[index].labels, "boxes": boxes}}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch as transformers' detectors take it."""
    return {"pixel_values": torch.stack([r["pixel_values"] for r in rows]), "labels": [r["labels"] for r in rows]}


def plain_model(body: BackboneFeatures, classes: int) -> Any:
    """D-FINE with a small encoder and decoder on EfficientNet-Lite0 and its published weights."""
    sizes: dict[str, Any] = {
        "num_labels": classes, "encoder_in_channels": [40, 112, 320], "encoder_hidden_dim": WIDTH,
        "encoder_ffn_dim": 2 * WIDTH, "encoder_attention_heads": 4, "d_model": WIDTH,
        "decoder_in_channels": [WIDTH] * 3, "decoder_ffn_dim": 2 * WIDTH, "decoder_attention_heads": 4,
        "decoder_layers": LAYERS, "num_queries": QUERIES, "num_denoising": DENOISING, "depth_mult": 0.34,
        "hidden_expansion": 0.5,
    }  # fmt: skip
    maps: dict[str, Any] = {"out_indices": [2, 3, 4]}
    network = TimmBackboneConfig(backbone="tf_efficientnet_lite0", freeze_batch_norm_2d=True, **maps)
    # not freeze_backbone_batch_norms, which would take timm's activations away with the norms
    config = DFineConfig(backbone_config=network, freeze_backbone_batch_norms=False, **sizes)
    model = DFineForObjectDetection(config)
    own: Any = model.model.backbone.model._backbone
    found: Any = body.body
    state = found.model.state_dict()
    own.load_state_dict({key: state[key] for key in own.state_dict()})
    model.model.freeze_backbone()
    return model


class Losses(TrainerCallback):
    """Prints the mean loss of every epoch."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        """Called by the Trainer."""
        del args, control, others
        if logs and "loss" in logs:
            print(f"epoch {state.epoch:.0f}: loss {logs['loss']}", flush=True)


def train(model: Any, data: Cells, folder: Path, options: argparse.Namespace) -> list[float]:
    """Train with transformers' Trainer; the mean loss of every epoch."""
    arguments = TrainingArguments(
        str(folder), num_train_epochs=options.epochs, max_steps=options.steps, per_device_train_batch_size=BATCH,
        dataloader_drop_last=True, max_grad_norm=0.1, logging_strategy="epoch", save_total_limit=1,
        save_strategy="no" if options.steps > 0 else "epoch", seed=options.seed, use_cpu=True, report_to=[],
        remove_unused_columns=False, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    steps = options.epochs * (len(data) // BATCH)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], LR, weight_decay=1e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    trainer = Trainer(
        model,
        arguments,
        data_collator=collate,
        train_dataset=data,
        optimizers=(optimizer, schedule),
        callbacks=[Losses()],
    )
    begun = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=begun)
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@torch.no_grad()
def evaluate(model: Any, data: Cells) -> dict[str, float]:
    """COCO's metrics on the images' own sizes."""
    model.eval()
    records, truth = [], []
    for i, (width, height) in enumerate(data.sizes):
        out = model(data[i]["pixel_values"][None])
        scores, order = out.logits[0].sigmoid().flatten().topk(_MOST)
        query, label = order // len(data.classes), order % len(data.classes)
        scale = torch.tensor([width, height] * 2)
        boxes = clip_boxes_to_image(box_convert(out.pred_boxes[0][query], "cxcywh", "xyxy") * scale, (height, width))
        found = {"boxes": boxes.tolist(), "scores": scores.tolist(), "labels": label.tolist(), "size": (width, height)}
        records.append(found)
        truth.append(data.targets[i]._replace(boxes=data.targets[i].boxes * scale))
    return {name: round(value, 5) for name, value in coco_metrics(records, truth, data.classes).items()}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one model."""
    body = BackboneFeatures(reductions=(8, 16, 32))
    mean, std = (torch.as_tensor(each).reshape(3, 1, 1) for each in (body.mean, body.std))
    data = {split: Cells(options.data, split, mean, std) for split in ("train", "val")}
    set_seed(options.seed)
    model = plain_model(body, len(data["train"].classes))
    if name == "pst":
        model = add_pst(model)
    start = time.perf_counter()
    losses = train(
        model, data["train"], options.out.with_suffix("") / f"{name}-{options.seed}-{options.epochs}", options
    )
    seconds = time.perf_counter() - start
    if options.steps > 0:
        print(f"{name}: {seconds / options.steps:.2f} s a step, {len(data['train']) // BATCH} steps an epoch")
        return {}
    found = {"model": name, **_settings(options), "parameters": sum(p.numel() for p in model.parameters())}
    metrics = {}
    for k in FINE if name == "pst" else (0,):
        if name == "pst":
            pst.set_topk(model, k)
        metrics[f"k{k}"] = evaluate(model, data["val"])
    return {**found, "loss": losses, "seconds_of_the_last_run": round(seconds), "val": metrics}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a result was made with; one with other values is made again."""
    return {
        "seed": options.seed, "epochs": options.epochs, "size": list(SIZE), "batch": BATCH, "lr": LR,
        "width": WIDTH, "queries": QUERIES, "denoising": DENOISING, "decoder_layers": LAYERS,
    }  # fmt: skip


def main() -> None:
    """Train what the result file lacks."""
    parser = argparse.ArgumentParser(description="D-FINE of transformers, plain and with PST, on a small detection set")
    parser.add_argument("data", type=Path, help="folder with a data.yaml")
    parser.add_argument("--out", type=Path, default=Path("lab/results/transformers-bccd.json"))
    parser.add_argument("--models", nargs="+", choices=("plain", "pst"), default=("plain", "pst"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=-1, help="only time so many training steps")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    for name in options.models:
        same = {"model": name, **_settings(options)}
        if options.steps < 0 and any(all(row.get(k) == v for k, v in same.items()) for row in rows):
            continue
        row = run(name, options)
        if row:
            rows.append({**row, "made": described(("accelerate", "timm", "transformers", "faster-coco-eval"))})
            write_text(options.out, json.dumps({"data": options.data.name, "rows": rows}, indent=1) + "\n")
            print(json.dumps(row["val"]), flush=True)


if __name__ == "__main__":
    main()
