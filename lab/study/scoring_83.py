"""Validate a detector under two scorings: Ultralytics 8.4's, and that of 8.3.105, which the authors' figures come from.

8.3.105 clips predicted boxes to the image before matching and lets the precision-recall curve run on to recall 1; 8.4
does neither, and so gives lower figures for the same weights. Both changes are undone here in the installed 8.4.

    python -m lab.study.scoring_83 --model best.pt --data bccd/data.yaml --imgsz 320 --topk 0,8 --out result.json
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import metrics, ops

import pst
from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
from pst.integrations.ultralytics import YOLO
from pst.profile.environment import environment


class Validator83(DetectionValidator):
    """Matches boxes in the coordinates of the original image, predictions clipped to it."""

    def _process_batch(self, preds: dict[str, Any], batch: dict[str, Any]) -> dict[str, np.ndarray]:
        def original(boxes: Any) -> Any:
            return ops.scale_boxes(batch["imgsz"], boxes.clone(), batch["ori_shape"], ratio_pad=batch["ratio_pad"])

        scaled = {**preds, "bboxes": original(preds["bboxes"])}
        return super()._process_batch(scaled, {**batch, "bboxes": original(batch["bboxes"])})


def compute_ap_83(recall: Any, precision: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """Average precision over 101 points of recall, the curve falling in a straight line from its end to (1, 0)."""
    mrec, mpre = np.concatenate(([0.0], recall, [1.0])), np.concatenate(([1.0], precision, [0.0]))
    mpre = np.flip(np.maximum.accumulate(np.flip(mpre)))
    x = np.linspace(0, 1, 101)
    y = np.interp(x, mrec, mpre)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum()), mpre, mrec


def main() -> None:
    """Print one line for each k and scoring, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--topk", default="0")
    parser.add_argument("--fusion", default="gate", choices=("gate", "refine"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    yolo: Any = YOLO(args.model)
    pst.set_fusion(yolo, args.fusion)
    rows, compute_ap = [], metrics.compute_ap
    for k in map(int, args.topk.split(",")):
        pst.set_topk(yolo, k)
        for scoring, validator, ap in (("8.4", None, compute_ap), ("8.3.105", Validator83, compute_ap_83)):
            metrics.compute_ap = ap
            box = yolo.val(
                validator=validator, data=args.data, imgsz=args.imgsz, batch=args.batch, device="cpu", plots=False,
                verbose=False,
            ).box  # fmt: skip
            rows.append({"topk": k, "scoring": scoring, "map50_95": float(box.map), "map50": float(box.map50)})
    metrics.compute_ap = compute_ap
    for row in rows:
        print(
            f"k={row['topk']:<3} scoring {row['scoring']:<8} mAP50-95 {row['map50_95']:.4f}  mAP50 {row['map50']:.4f}"
        )
    if args.out is not None:
        settings = {"imgsz": args.imgsz, "batch": args.batch, "fusion": args.fusion}
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        result = {"model": Path(args.model).name, "settings": settings, "created": created, **environment()}
        args.out.write_text(json.dumps({**result, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
