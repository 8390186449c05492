"""A validation set held on the device, for evaluating many variants of a model quickly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data import utils as host_data
from ultralytics.utils import nms, ops

from pst.integrations.ultralytics.guard import protected
from pst.integrations.ultralytics.plugin import register


class CachedValidation:
    """Images and boxes of a data set's validation split, preprocessed once as ``YOLO.val`` does (rect, letterbox).

    Args:
        data: Data set YAML.
        imgsz: Longest side in pixels.
        batch: Images in a batch; as in Ultralytics, those of a batch share one shape.
        device: Where images and boxes stay.

    Attributes:
        names: Class names by index.
        batches: (B, 3, H, W) uint8 each, the images as the model gets them, padding included.
        label: (G,) int64, labels of all boxes.
        image: (G,) int64, their images.
        box: (G, 4) float32, corners in pixels of the batch's image.
        side: (I,) float32, longest side of each image in the same pixels, padding left out.
        max_detections: Kept in an image: 300, or as many as the fullest image has boxes.
    """

    def __init__(self, data: str | Path, *, imgsz: int, batch: int = 16, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        overrides: Any = {"task": "detect", "mode": "val", "imgsz": imgsz, "rect": True, "data": str(data)}
        args: Any = get_cfg(overrides=overrides)
        register()
        with protected():
            found: Any = host_data.check_det_dataset(str(data))
            dataset: Any = build_yolo_dataset(args, found["val"], batch, found, mode="val", stride=32)
        self.names: dict[int, str] = found["names"]
        items = [dataset[i] for i in range(len(dataset))]
        loaded = [dataset.collate_fn(items[i : i + batch]) for i in range(0, len(items), batch)]
        self.batches: list[Tensor] = [b["img"].to(self.device) for b in loaded]
        self._collect(loaded)

    def __len__(self) -> int:
        """I, the number of images."""
        return len(self.side)

    def _collect(self, loaded: list[dict[str, Any]]) -> None:
        labels, images, boxes, sides, first = [], [], [], [], 0
        for b in loaded:
            height, width = b["img"].shape[2:]
            labels.append(b["cls"].squeeze(-1).long())
            images.append(b["batch_idx"].long() + first)
            boxes.append(ops.xywh2xyxy(b["bboxes"]) * torch.tensor([width, height, width, height]))
            sides += [max(shape) * pad[0][0] for shape, pad in zip(b["ori_shape"], b["ratio_pad"], strict=True)]
            first += len(b["ori_shape"])
        self.label, self.image = torch.cat(labels).to(self.device), torch.cat(images).to(self.device)
        self.box = torch.cat(boxes).float().to(self.device)
        self.side = torch.tensor(sides, dtype=torch.float32, device=self.device)
        self.max_detections = max(300, int(self.image.bincount(minlength=1).max()))

    @torch.inference_mode()
    def predict(self, model: nn.Module) -> tuple[list[Tensor], float]:
        """Detections of every image, after the non-maximum suppression of ``YOLO.val``.

        Args:
            model: A detector of Ultralytics in eval mode on the set's device.

        Returns:
            For each image (n, 6): corners, score, label, by falling score. And the forward pass's milliseconds for
            each image, the first batch left out where there are several.
        """
        found: list[Tensor] = []
        seconds = []
        for images in self.batches:
            batch = images.float() / 255
            self._wait()
            begin = time.perf_counter()
            predictions = model(batch)
            self._wait()
            seconds.append((time.perf_counter() - begin) / len(images))
            kept: Any = nms.non_max_suppression(
                predictions, 0.001, 0.7, multi_label=True, max_det=self.max_detections, max_time_img=60.0
            )
            found += kept
        timed = seconds[1:] if len(seconds) > 1 else seconds
        return [f[:, :6] for f in found], 1e3 * sum(timed) / len(timed)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
