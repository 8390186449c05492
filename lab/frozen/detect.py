"""One training of torchvision's FCOS on maps of the frozen network."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lab.frozen.maps import Network
from lab.frozen.pack import EDGE, Pictures
from lab.frozen.rows import BOX_WIDTH, Row, box_neck
from lab.frozen.schedule import Recipe, seeded, train
from lab.frozen.segment import FINE, picked, variant
from lab.study.bootstrap import average_precision, detections_of, pack, resample_weights
from pst.data.images import Boxes
from pst.integrations.torchvision import PyramidBackbone, fcos
from pst.train.tasks.detection_metrics import coco_metrics, match

_AT_ONCE = 32


class Data:
    """A data set on the device: pictures in squares of `EDGE`; those for training are followed by the flipped ones.

    Args:
        name: Of the data set.
        network: The frozen one.
        pictures: "train" and "val".
    """

    def __init__(self, name: str, network: Network, pictures: Mapping[str, Pictures]) -> None:
        self.name, self.network, self.pictures = name, network, pictures
        self.classes = pictures["train"].classes
        self.count = len(pictures["train"].images)
        images = pictures["train"].images
        self.images = {"train": torch.cat([images, images.flip(3)]), "val": pictures["val"].images}
        straight = [_in_pixels(*each) for each in _pairs(pictures["train"])]
        flipped = [_flipped(boxes) for boxes in straight]
        self.targets = [_target(boxes, network.device) for boxes in (*straight, *flipped)]
        self.truth = [_in_pixels(*each) for each in _pairs(pictures["val"])]
        self._kept: dict[tuple[str, int], Tensor] = {}

    def maps(self, split: str, strides: Sequence[int]) -> OrderedDict[str, Tensor]:
        """Maps of a split by name of their stride, finest first."""
        lacking = [s for s in strides if (split, s) not in self._kept]
        if lacking:
            for s, found in self.network.maps(self.images[split], (EDGE, EDGE), lacking).items():
                self._kept[split, s] = found
        return OrderedDict((str(s), self._kept[split, s]) for s in strides)


class Cached(PyramidBackbone):
    """A neck with two coarser levels behind it, fed with maps that lie ready instead of with images.

    Attributes:
        ready: The maps of this batch.
    """

    def __init__(self, neck: nn.Module, strides: Sequence[int]) -> None:
        more = (2 * strides[-1], 4 * strides[-1])
        super().__init__(nn.Identity(), neck, strides, more, BOX_WIDTH)
        self.extra = LastLevelP6P7(BOX_WIDTH, BOX_WIDTH)
        self.ready: OrderedDict[str, Tensor] = OrderedDict()

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Any tensor -> maps of `BOX_WIDTH` channels, "0" the finest."""
        del x
        fused = list(self.fpn(self.ready).values())
        levels, names = self.extra(fused, fused, list(self.fused))
        return OrderedDict(zip(names, levels, strict=True))


class AsTheyAre(nn.Module):
    """In the place of torchvision's transform: pictures of one size, neither resized nor normalised."""

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        """(B, 3, H, W) -> ImageList."""
        height, width = images.shape[2:]
        return ImageList(images, [(height, width)] * len(images)), targets

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """Boxes stay in pixels of the pictures."""
        del image_shapes, original_image_sizes
        return result


Source = Callable[[str, Tensor], OrderedDict[str, Tensor]]
"""Split and indices of pictures -> their maps."""


def run(
    row: Row,
    data: Data,
    seed: int,
    recipe: Recipe,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train and evaluate one cell; the result as `lab.frozen.segment.run` has it, for "val" alone.

    An evaluation holds "value" (AP over IoU 0.50 to 0.95), "ap50", "ap75", "small", "medium" and "large".
    """

    def maps(split: str, at: Tensor) -> OrderedDict[str, Tensor]:
        return picked(data.maps(split, row.strides), at)

    return _run(row, data, maps, [], seed, recipe, say)


def run_trained(row: Row, data: Data, seed: int, recipe: Recipe, say: Callable[[str], None]) -> dict[str, Any]:
    """`run`, with the network trained as well, at a tenth of the rate; its BatchNorm statistics stay as they are."""
    network, names = data.network, [str(s) for s in row.strides]
    body = copy.deepcopy(network.body).requires_grad_(True).to(memory_format=torch.channels_last)

    def maps(split: str, at: Tensor) -> OrderedDict[str, Tensor]:
        levels = body(network.normalised(data.images[split][at.cpu()], (EDGE, EDGE)))
        return OrderedDict((name, levels[name]) for name in names)

    return _run(row, data, maps, [{"params": list(body.parameters()), "share": 0.1}], seed, recipe, say)


def _run(
    row: Row,
    data: Data,
    maps: Source,
    more: list[dict[str, Any]],
    seed: int,
    recipe: Recipe,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train neck, head and ``more`` groups of parameters on what ``maps`` gives for pictures of a split."""
    device = data.network.device
    with seeded(seed):
        backbone = Cached(box_neck(row, data.network.channels), row.strides)
        model: Any = fcos(backbone, len(data.classes), min_size=EDGE, max_size=EDGE)
    model.transform = AsTheyAre()
    model.to(device, memory_format=torch.channels_last)

    def loss(index: Tensor, flipped: Tensor) -> Tensor:
        at = index + data.count * flipped
        backbone.ready = maps("train", at)
        losses = model(_blank(len(at), device), [data.targets[i] for i in at.tolist()])
        return torch.stack(list(losses.values())).sum()

    groups = [{"params": list(model.parameters())}, *more]
    losses = train(groups, model, loss, data.count, seed, recipe, device, say, clip=10.0)
    model.eval()
    parameters = {"neck_parameters": sum(p.numel() for p in backbone.fpn.parameters())}
    return {**parameters, "loss": losses, "val": evaluate(model, backbone, data, maps, row)}


def evaluate(model: nn.Module, backbone: Cached, data: Data, maps: Source, row: Row) -> dict[str, Any]:
    """COCO's metrics, and those of the resamples."""
    weights = resample_weights(data.name, len(data.truth))
    evaluations, replicates = {}, []
    for name in ("k0", *(FINE if row.kind == "pst" else ())):
        with variant(model, name), torch.no_grad():
            records = _records(model, backbone, data, maps)
        found = coco_metrics(records, data.truth, data.classes)
        columns = [match(record, truth) for record, truth in zip(records, data.truth, strict=True)]
        table = {key: [each[key] for each in columns] for key in columns[0]}
        detections, keep = detections_of(table, data.network.device)
        replicates.append(average_precision(detections, weights, interpolation="step", keep=keep).mean(1))
        named = {key.removeprefix("map_").replace("map", "ap"): round(v, 5) for key, v in found.items()}
        evaluations[name] = {"value": named.pop("ap"), **named}
    return {"evaluations": evaluations, "replicates": pack(replicates)}


def _records(model: nn.Module, backbone: Cached, data: Data, maps: Source) -> list[dict[str, Any]]:
    device, sizes, records = data.network.device, data.pictures["val"].sizes, []
    for part in torch.arange(len(data.truth), device=device).split(_AT_ONCE):
        backbone.ready = maps("val", part)
        for found in model(_blank(len(part), device)):
            width, height = sizes[len(records)]
            records.append(
                {
                    "size": (width, height),
                    "boxes": clip_boxes_to_image(found["boxes"], (height, width)).tolist(),
                    "scores": found["scores"].tolist(),
                    "labels": found["labels"].tolist(),
                }
            )
    return records


def _blank(count: int, device: str) -> Tensor:
    """Pictures that nobody looks at; torchvision asks for their size."""
    return torch.zeros(1, 1, 1, 1, device=device).expand(count, 3, EDGE, EDGE)


def _pairs(pictures: Pictures) -> list[tuple[Boxes, tuple[int, int]]]:
    return list(zip(pictures.targets, pictures.sizes, strict=True))


def _in_pixels(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    return boxes._replace(boxes=boxes.boxes * torch.tensor(size * 2))


def _flipped(boxes: Boxes) -> Boxes:
    left, top, right, bottom = boxes.boxes.unbind(1)
    return boxes._replace(boxes=torch.stack([EDGE - right, top, EDGE - left, bottom], 1))


def _target(boxes: Boxes, device: str) -> dict[str, Tensor]:
    real = boxes.only(~boxes.crowd & (boxes.boxes[:, 2:] - boxes.boxes[:, :2] > 1).all(1))
    return {"boxes": real.boxes.to(device), "labels": real.labels.to(device)}
