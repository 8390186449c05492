"""One training on CamVid: a neck and the segmenter's head, on maps of the frozen network or with the network."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pst
from lab.frozen.maps import Network
from lab.frozen.pack import IGNORE, Pictures
from lab.frozen.rows import Row
from lab.frozen.schedule import Recipe, seeded, train
from lab.study.bootstrap import mean_iou, pack, resample_weights
from pst.train.tasks.segment import class_iou

FINE = {
    "k8-mean": "mean",
    "k8-window": "window",
    "k8-nearest": "nearest",
    "k8-random": "random",
}  # variants with fine attention, by selection rule
_AT_ONCE = 32


@dataclass
class Data:
    """CamVid on the device.

    Attributes:
        network: The frozen one.
        pictures: By split.
        padded: Size that the network sees.
        images: By split; those for training are followed by the same from right to left.
        masks: Likewise, on the device.
        count: Training pictures, without the flipped ones.
    """

    network: Network
    pictures: Mapping[str, Pictures]
    padded: tuple[int, int]

    def __post_init__(self) -> None:
        self.images, self.masks = {}, {}
        for split, each in self.pictures.items():
            images, masks = each.images, each.targets
            if split == "train":
                images, masks = torch.cat([images, images.flip(3)]), torch.cat([masks, masks.flip(2)])
            self.images[split], self.masks[split] = images, masks.to(self.network.device).long()
        self.count = len(self.pictures["train"].images)
        self.classes = len(self.pictures["train"].classes)
        self._kept: dict[tuple[str, int], Tensor] = {}

    def maps(self, split: str, strides: Sequence[int]) -> OrderedDict[str, Tensor]:
        """Maps of a split by name of their stride, finest first."""
        lacking = [s for s in strides if (split, s) not in self._kept]
        if lacking:
            for s, found in self.network.maps(self.images[split], self.padded, lacking).items():
                self._kept[split, s] = found
        return OrderedDict((str(s), self._kept[split, s]) for s in strides)


class Segmenter(nn.Module):
    """Decoder and classifier: maps -> logits of the padded picture."""

    def __init__(self, decoder: Any, classes: int, padded: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self.padded = decoder, padded
        self.classifier = nn.Conv2d(decoder.out_channels, classes, 1)

    def forward(self, maps: OrderedDict[str, Tensor]) -> Tensor:
        """Maps by stride -> (B, classes, *padded)."""
        return F.interpolate(self.classifier(self.decoder(maps)), self.padded, mode="bilinear", align_corners=False)


def run(
    row: Row, decoder: Callable[[], Any], data: Data, seed: int, recipe: Recipe, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train and evaluate one cell.

    Args:
        row: What to train.
        decoder: Builds it.
        data: On the device.
        seed: Of the weights and of the order of pictures.
        recipe: How long, how fast.
        say: Called with each epoch's loss; may raise to stop.

    Returns:
        "loss" of each epoch, and for each of the splits "val" and "test" the "evaluations" of each variant and their
        "replicates", see `lab.study.intervals`.
    """
    device, masks, size = data.network.device, data.masks["train"], data.masks["train"].shape[1:]
    with seeded(seed):
        model = Segmenter(decoder(), data.classes, data.padded).to(device).to(memory_format=torch.channels_last)
    maps = data.maps("train", row.strides)

    def loss(index: Tensor, flipped: Tensor) -> Tensor:
        at = index + data.count * flipped
        logits = model(picked(maps, at))[..., : size[0], : size[1]]
        return F.cross_entropy(logits, masks[at], ignore_index=IGNORE)

    losses = train([{"params": list(model.parameters())}], model, loss, data.count, seed, recipe, device, say)

    def predict(split: str) -> Iterator[Tensor]:
        found = data.maps(split, row.strides)
        for part in torch.arange(len(data.masks[split]), device=device).split(_AT_ONCE):
            yield model(picked(found, part))

    return {"loss": losses, **evaluate(model, predict, data, row)}


def run_trained(
    row: Row, decoder: Callable[[], Any], data: Data, seed: int, recipe: Recipe, say: Callable[[str], None]
) -> dict[str, Any]:
    """`run`, with the network trained as well, at a tenth of the rate; its BatchNorm statistics stay as they are."""
    network, device, size = data.network, data.network.device, data.masks["train"].shape[1:]
    with seeded(seed):
        head = Segmenter(decoder(), data.classes, data.padded)
    body = copy.deepcopy(network.body).requires_grad_(True)
    model = nn.ModuleDict({"body": body, "head": head}).to(device).to(memory_format=torch.channels_last)
    images, masks = data.images["train"].to(device), data.masks["train"]
    names = [str(s) for s in row.strides]

    def forward(pictures: Tensor) -> Tensor:
        levels = body(network.normalised(pictures, data.padded))
        return head(OrderedDict((name, levels[name]) for name in names))[..., : size[0], : size[1]]

    def loss(index: Tensor, flipped: Tensor) -> Tensor:
        at = index + data.count * flipped
        return F.cross_entropy(forward(images[at]), masks[at], ignore_index=IGNORE)

    groups = [{"params": list(head.parameters())}, {"params": list(body.parameters()), "share": 0.1}]
    losses = train(groups, head, loss, data.count, seed, recipe, device, say)

    def predict(split: str) -> Iterator[Tensor]:
        for part in data.images[split].split(_AT_ONCE):
            yield forward(part.to(device))

    return {"loss": losses, **evaluate(model, predict, data, row)}


def evaluate(model: nn.Module, predict: Callable[[str], Iterator[Tensor]], data: Data, row: Row) -> dict[str, Any]:
    """Mean IoU of both splits, and with fine attention where there is attention."""
    model.eval()
    found: dict[str, Any] = {}
    for split in ("val", "test"):
        if split not in data.masks:
            continue
        confusions = {}
        for name in ("k0", *(FINE if row.kind == "pst" else ())):
            with variant(model, name), torch.no_grad():
                confusions[name] = _confusion(predict(split), data.masks[split], data.classes)
        weights = resample_weights(f"camvid-{split}", len(data.masks[split]))
        found[split] = {
            "evaluations": {name: _figures(confusion) for name, confusion in confusions.items()},
            "replicates": pack([mean_iou(confusion, weights) for confusion in confusions.values()]),
        }
    return found


@contextlib.contextmanager
def variant(model: nn.Module, name: str) -> Iterator[None]:
    """The model with fine attention of this kind; refined, as no gate was trained."""
    if name == "k0":
        yield
        return
    with pst.use_topk(model, 8):
        pst.set_fusion(model, "refine")
        pst.set_selection(model, FINE[name])
        yield
    pst.set_selection(model, "mean")


def picked(maps: Mapping[str, Tensor], index: Tensor) -> OrderedDict[str, Tensor]:
    """Some pictures' maps."""
    return OrderedDict((name, x[index].contiguous(memory_format=torch.channels_last)) for name, x in maps.items())


def _confusion(logits: Iterator[Tensor], masks: Tensor, classes: int) -> Tensor:
    """(I, C, C) int64 on the CPU: pixels of each true class (row) given to each class (column), image by image."""
    found, first = [], 0
    for part in logits:
        truth = masks[first : first + len(part)]
        first += len(part)
        guess = part[..., : truth.shape[1], : truth.shape[2]].argmax(1)
        image = torch.arange(len(part), device=truth.device)[:, None, None].expand_as(truth)
        real = truth != IGNORE
        places = ((image * classes + truth) * classes + guess)[real]
        count = torch.bincount(places, minlength=len(part) * classes * classes)
        found.append(count.view(-1, classes, classes).cpu())
    return torch.cat(found)


def _figures(confusion: Tensor) -> dict[str, Any]:
    total = confusion.sum(0).double()
    iou = class_iou(total)
    return {
        "value": float(iou.nanmean()),
        "accuracy": float(total.diagonal().sum() / total.sum()),
        "iou": [None if x != x else round(x, 5) for x in iou.tolist()],
    }
