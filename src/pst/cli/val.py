"""`pst val`: one trained model over a grid of k and fusions; a table, JSON and CSV."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pst.cli._common import Verbs, format_table, fusion_list, positive, require, topk_list
from pst.files import write_text

if TYPE_CHECKING:
    from pst.integrations.ultralytics import SweepRow

_HEADER = ("fusion", "k", "mAP50-95", "mAP50", "ms/image", "peak MB")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "val",
        help="mAP, latency and memory of a trained model over k and fusion",
        description="Validate a trained detector once for every k and fusion; k = 0 is the same model with each "
        "fusion and runs once. Writes val.json and val.csv.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="PT", help="checkpoint, e.g. best.pt")
    parser.add_argument("--data", required=True, metavar="YAML", help="dataset in the Ultralytics layout")
    parser.add_argument("--topk", type=topk_list, default="0,4,8,16", metavar="K,…", help="values of k (%(default)s)")
    parser.add_argument("--fusion", type=fusion_list, default="gate,refine", metavar="NAME,…", help="(%(default)s)")
    parser.add_argument("--imgsz", type=positive, default=640, metavar="PX", help="image size (%(default)s)")
    parser.add_argument("--batch", type=positive, default=16, metavar="N", help="images in a batch (%(default)s)")
    parser.add_argument("--device", help="cpu, 0, … (the best there is)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (runs/val/ and the model's name)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sweep, write the files after each row so that an interrupted sweep keeps what it has, print the table."""
    require("ultralytics", "ultralytics")
    from pst.environment import environment
    from pst.integrations.ultralytics import sweep

    out = Path("runs/val") / args.model.stem if args.out is None else args.out
    settings = {name: getattr(args, name) for name in ("topk", "fusion", "imgsz", "batch", "device")}
    result = {
        "model": str(args.model),
        "data": str(args.data),
        "settings": settings,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    rows: list[SweepRow] = []
    for row in sweep(args.model, args.data, **settings, project=out):
        rows.append(row)
        _write(out, {**result, **environment()}, rows)  # after a run, for Ultralytics sets the number of threads
    print(_table(rows))
    print(f"Written: {out / 'val.json'}, {out / 'val.csv'}")
    return 0


def _write(out: Path, result: dict[str, object], rows: Sequence[SweepRow]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    records = [row._asdict() for row in rows]
    write_text(out / "val.json", json.dumps({**result, "rows": records}, indent=2) + "\n")
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    write_text(out / "val.csv", table.getvalue())


def _table(rows: Sequence[SweepRow]) -> str:
    cells = [
        (r.fusion, str(r.topk), f"{r.map50_95:.4f}", f"{r.map50:.4f}", f"{r.latency_ms:.2f}", f"{r.peak_memory_mb:.1f}")
        for r in rows
    ]
    return format_table(_HEADER, cells)
