"""`pst bench`: speed and memory side by side on this machine, as a table, JSON and a plot."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pst.cli._common import Verbs, format_table, positive, require
from pst.files import write_text

if TYPE_CHECKING:
    from torch import nn

_MODELS = ("yolo11n.yaml", "yolo11n-pst.yaml")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "bench",
        help="speed and memory against the textbook attention and plain models",
        description="Cases of one comparison take turns in one process; the median is quoted. module and train: the "
        "attention layer, forward pass or training step, against the textbook's. model: whole detectors.",
    )
    parser.add_argument("suite", nargs="?", choices=("module", "train", "model"), default="module")
    parser.add_argument("--seconds", type=positive, default=5, help="time for each comparison (%(default)s)")
    parser.add_argument("--threads", type=positive, help="PyTorch threads (every core)")
    parser.add_argument("--quick", action="store_true", help="maps up to 40×40, images of 320 px")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="(%(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run one suite, write its files, print its table."""
    require("tqdm", "viz")
    require("matplotlib", "viz")
    _set_threads(args.threads)
    from pst.bench import measure_roofline
    from pst.environment import environment

    roofline = measure_roofline(args.device)
    print(
        f"This machine at best: {roofline.matmul_gflops:.0f} GFLOP/s in matrix products, {roofline.exp_gops:.2f}·10⁹ "
        f"exp/s, {roofline.copy_gbs:.1f} GB/s copied"
    )
    result: dict[str, Any] = {
        "suite": args.suite,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {"seconds": args.seconds, "quick": args.quick, "device": args.device, "dtype": "float32"},
        "roofline": asdict(roofline),
        **environment(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.suite}.json"
    result["records"] = _models(args) if args.suite == "model" else _modules(args, roofline)
    write_text(path, json.dumps(result, indent=2) + "\n")
    print(f"Written: {path}")
    return 0


def _modules(args: argparse.Namespace, roofline: Any) -> list[dict[str, Any]]:
    from pst.bench import SIZES, run_modules
    from pst.bench.report import MODULE_HEADER, module_rows, plot_modules

    sizes = [size for size in SIZES if size[0] <= 40 or not args.quick]
    train = args.suite == "train"
    records = run_modules(
        sizes, train=train, memory=sys.platform == "linux", roofline=roofline, seconds=args.seconds, device=args.device
    )
    print(format_table(MODULE_HEADER, module_rows(records)))
    plot_modules(records, args.out / f"{args.suite}.png")
    return records


def _models(args: argparse.Namespace) -> list[dict[str, Any]]:
    require("ultralytics", "ultralytics")
    from pst.bench import run_models
    from pst.bench.report import MODEL_HEADER, model_rows
    from pst.integrations.ultralytics.flops import gflops

    builders: dict[str, Callable[[], nn.Module]] = {}
    for name in _MODELS:
        for k in (0, 8) if "pst" in name else (0,):
            builders[Path(name).stem + (f" k={k}" if "pst" in name else "")] = partial(_build, name, k)
    imgsz = 320 if args.quick else 640
    records = run_models(builders, imgsz=imgsz, seconds=args.seconds * len(builders), device=args.device)
    for record, build in zip(records, builders.values(), strict=True):
        record["gflops"] = gflops(build(), imgsz)
    print(format_table(MODEL_HEADER, model_rows(records)))
    return records


def _build(name: str, topk: int) -> nn.Module:
    """A detector, BatchNorm folded as Ultralytics does for inference."""
    from pst.control import set_topk
    from pst.integrations.ultralytics import YOLO

    yolo: Any = YOLO(name)
    if "pst" in name:
        set_topk(yolo, topk)
    return yolo.model.fuse(verbose=False)


def _set_threads(threads: int | None) -> None:
    """Fix the number before ultralytics is imported, which sets one thread where OMP_NUM_THREADS is unset."""
    import os

    import torch

    from pst.environment import hardware

    count = threads if threads is not None else hardware()["cores"]
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
    torch.set_num_threads(int(str(count)))
