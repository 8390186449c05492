"""`pst val`: one trained model over a grid of k and fusions; a table, JSON and CSV."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pst.cli._common import (
    Verbs,
    add_trust,
    add_verb,
    bound_list,
    check_run,
    check_suffix,
    format_table,
    free_folder,
    fusion_list,
    host_errors,
    positive,
    require,
    topk_list,
)
from pst.io.files import check_file, check_folder, check_ours, write_text

Row = dict[str, Any]
_HEADER = {
    "topk": "k",
    "max_tokens": "tokens",
    "imgsz": "px",
    "gflops": "GFLOPs",
    **dict.fromkeys(("map50_95", "map"), "mAP50-95"),  # Ultralytics' name, and that of pst train
    **{f"map{part}": f"mAP{part.replace('_', ' ')}" for part in ("50", "75", "_small", "_medium", "_large")},
    "latency_ms": "ms/image",
    "peak_memory_mb": "peak MB",
}
_DIGITS = {"latency_ms": 2, "peak_memory_mb": 1, "gflops": 2}
_BATCH = 16  # of a .pt


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "val",
        help="metrics, latency and memory of a trained model over k, fusion and bounds on the tokens",
        examples=["val --model runs/cells --topk 0,8 --max-tokens 16,100,all", "val --model best.pt --data coco8.yaml"],
        description="Validate a trained model once for every k and fusion, and for every bound on the coarse tokens; "
        "k = 0 is the same model with each fusion and runs once. Writes val.json and val.csv. Takes checkpoints of "
        "Ultralytics (.pt), run folders of "
        "pst train and their .safetensors.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL", help="best.pt, a run, best.safetensors")
    parser.add_argument("--data", help="data set (that of the run); a YAML in the Ultralytics layout for a .pt")
    parser.add_argument(
        "--topk",
        type=topk_list,
        default="0,4,8,16",
        metavar="K,…",
        help="values of k; more than there are tokens: all (%(default)s)",
    )
    parser.add_argument(
        "--fusion", type=fusion_list, default="gate,refine", metavar="NAME,…", help="gate, refine or both (%(default)s)"
    )
    parser.add_argument(
        "--max-tokens", type=bound_list, metavar="N,…", help="most coarse tokens, e.g. 16,100,all (the model's own)"
    )
    parser.add_argument("--selection", metavar="RULE", help="for a run: selection rule (the run's own)")
    parser.add_argument("--split", metavar="NAME", help="for a run: data split (val)")
    parser.add_argument("--imgsz", type=positive, metavar="PX", help="image size (that of the training)")
    parser.add_argument("--batch", type=positive, metavar="N", help="images in a batch (that of the run; .pt: 16)")
    parser.add_argument("--device", help="cpu or cuda; for a .pt also 0, … (the best available)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the files (runs/val/ and the training's name)"
    )
    add_trust(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sweep, write the files after each row so that an interrupted sweep keeps what it has, print the table."""
    own = args.model.is_dir() or args.model.suffix == ".safetensors"
    check_run(args.model)
    if not own:
        check_suffix(args.model)
        for name in ("split", "selection"):
            if getattr(args, name) is not None:
                raise ValueError(
                    f"--{name} is for runs of pst train, and {args.model} is a checkpoint of Ultralytics: leave it out"
                )
        if args.data is None:
            check_file(args.model, "checkpoint", "give the path of a trained model")
            raise ValueError("--data is missing: name a data set YAML in the Ultralytics layout")
    require(*("accelerate", "train") if own else ("ultralytics", "ultralytics"))
    from pst.profile.environment import environment

    out = free_folder(Path("runs/val"), args.model) if args.out is None else args.out
    settings = {name: getattr(args, name) for name in ("topk", "fusion", "max_tokens", "imgsz", "batch", "device")}
    if own:
        args.split = "val" if args.split is None else args.split
        settings |= {"selection": args.selection, "split": args.split}
    result = {
        "model": str(args.model),
        "data": args.data,
        "settings": settings,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    check_folder(out)
    for name, mark in (("val.json", '"settings"'), ("val.csv", "fusion,topk")):
        check_ours(out / name, mark)
    rows: list[Row] = []
    for row in _trained_here(args) if own else _ultralytics(args, out):
        rows.append(row)
        _write(out, {**result, **environment()}, rows)  # after a run, for Ultralytics sets the number of threads
    print(_table(rows))
    print(f"Written: {out / 'val.json'}, {out / 'val.csv'}")
    print(f"Next: pst {'predict' if own else 'export'} --model {shlex.quote(str(args.model))}{' IMAGE' if own else ''}")
    return 0


def _ultralytics(args: argparse.Namespace, out: Path) -> Iterator[Row]:
    """Rows of a checkpoint of Ultralytics."""
    from pst.integrations.ultralytics import sweep

    sizes = {"imgsz": args.imgsz, "batch": _BATCH if args.batch is None else args.batch, "device": args.device}
    with host_errors(f"validate {args.model} on {args.data}"):
        asked = {"topk": args.topk, "fusion": args.fusion, "max_tokens": args.max_tokens}
        for row in sweep(args.model, args.data, **asked, **sizes, project=out, trust=args.trust):
            yield row._asdict()


def _trained_here(args: argparse.Namespace) -> Iterator[Row]:
    """Rows of a model of `pst train`."""
    from pst.train import sweep

    given = {name: getattr(args, name) for name in ("data", "imgsz", "batch", "device")}
    given = {name: value for name, value in given.items() if value is not None}
    asked = {"topk": args.topk, "fusion": args.fusion, "max_tokens": args.max_tokens}
    yield from sweep(args.model, **asked, selection=args.selection, split=args.split, **given)


def _write(out: Path, result: dict[str, object], rows: Sequence[Row]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "val.json", json.dumps({**result, "rows": [_without_nan(row) for row in rows]}, indent=2) + "\n")
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "val.csv", table.getvalue())


def _without_nan(row: Row) -> Row:
    """JSON has no NaN: what has no figure is null."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _table(rows: Sequence[Row]) -> str:
    """All columns but the number of images, the IoU of single classes, and those without a figure."""
    names = [name for name in rows[0] if name != "images" and not name.startswith("iou_")]
    names = [name for name in names if any(row[name] is not None for row in rows)]
    cells = [[_cell(name, row[name]) for name in names] for row in rows]
    return format_table([_HEADER.get(name, name) for name in names], cells)


def _cell(name: str, value: object) -> str:
    if value is None:
        return "all"
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if value == -1 and "map" in name:  # COCO's sign: no object of this kind
        return "–"
    return f"{value:.{_DIGITS.get(name, 4)}f}" if isinstance(value, float) else str(value)
