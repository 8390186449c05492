"""Checkpoints of Ultralytics and runs of `pst train` as a `Network`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from pst.explore.networks import NOTHING, SCORE, Found, Network, Seen, centred, square_of, to_tensor

_FAINT = 1e-4  # least score of the one object that is named where there is none of `SCORE`


class YOLONetwork(Network):
    """A checkpoint of Ultralytics; nothing in it is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or see `Network`.
    """

    def __init__(self, path: Path) -> None:
        from pst.integrations.ultralytics import YOLO

        yolo: Any = YOLO(path)
        names, args = yolo.names, yolo.model.args
        edge = args.get("imgsz") if isinstance(args, dict) else None
        channels = yolo.model.yaml.get("channels", 3)
        super().__init__(
            yolo, square_of(edge if isinstance(edge, int) else 640), [names[i] for i in sorted(names)], channels
        )

    def forward(self, seen: Seen) -> Any:
        """See `Network`."""
        with torch.inference_mode():
            return self.module(seen.pixels[None].float() / 255)

    def find(self, seen: Seen) -> Found:
        """See `Network`."""
        result = self._predict(seen, conf=SCORE)
        if result.probs is not None:
            return self.scores(result.probs.data.float())
        if getattr(result, "semantic_mask", None) is not None:
            return self.shares(result.semantic_mask.data.cpu().long(), seen.size)
        boxes = _boxes(result)
        if boxes is None:
            return Found("a map that this page does not draw")
        if not len(boxes):
            boxes = _boxes(self._predict(seen, conf=_FAINT, max_det=1))
        found = self.boxes(boxes.xyxy.cpu(), boxes.conf.cpu(), boxes.cls.cpu())
        return found if result.masks is None else found._replace(mask=self._objects(result))

    def _predict(self, seen: Seen, **options: float) -> Any:
        given = seen.square if self.channels == 3 else seen.pixels.permute(1, 2, 0).numpy()
        (result,) = self.model.predict(given, imgsz=self.edge, device="cpu", verbose=False, save=False, **options)
        return result

    def _objects(self, result: Any) -> Any:
        """(S, S): the class of the object at each pixel, `NOTHING` where there is none."""
        out = torch.full((self.edge, self.edge), NOTHING, dtype=torch.uint8)
        masks = F.interpolate(result.masks.data.cpu().float()[None], (self.edge, self.edge))[0]
        for mask, label in zip(masks, result.boxes.cls.cpu().tolist(), strict=True):
            out[mask > 0.5] = int(label) % NOTHING
        return out.numpy()


def _boxes(result: Any) -> Any:
    return result.boxes if result.boxes is not None else result.obb


class TaskNetwork(Network):
    """A run folder of `pst train`, or a weights file of one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It was not written by `pst train`, or see `Network`.
    """

    def __init__(self, path: Path) -> None:
        from pst.train.models import load_trained

        self.task, model = load_trained(path, device="cpu", workers=0)
        c = self.task.config
        super().__init__(model, c.imgsz, self.task.classes, c.in_chans)

    def see(self, image: Image.Image) -> Seen:
        """See `Network`; a classifier gets the middle of a picture."""
        if self.task.config.task != "classify":
            return super().see(image)
        return centred(self.task.square(to_tensor(image, self.channels)), self.edge)

    def forward(self, seen: Seen) -> Any:
        """See `Network`."""
        with torch.inference_mode():
            return self.model(self.task.inputs(seen.pixels[None]))

    def find(self, seen: Seen) -> Found:
        """See `Network`."""
        found = self.task.predictions(self.forward(seen), torch.tensor([[self.edge, self.edge]]))[0]
        if "mask" in found:
            return self.shares(found["mask"], seen.size)
        if "boxes" not in found:
            return self.scores(torch.tensor(found["scores"]))
        boxes = torch.tensor(found["boxes"], dtype=torch.float32).view(-1, 4)
        return self.boxes(boxes, torch.tensor(found["scores"]), torch.tensor(found["labels"]))
