"""Measure every export of a trained detector: format × k × precision, into JSON, and the table in docs/export.md of it.

    python -m lab.bench.export_matrix --model best.pt --data data.yaml --images images/val --imgsz 320
    python -m lab.bench.export_matrix --table            # only writes the table again

Resumable: a case that the JSON has is not measured again. Formats whose packages cannot share one environment are run
one after the other, each with the Python of its own (``--formats coreml``); all of them add to one JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import traceback
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.page import replace_between
from pst.export import FORMATS, compare, newest_opset
from pst.integrations.ultralytics import export as exports
from pst.io.files import write_text
from pst.profile.environment import commit, environment, version_of

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "lab" / "results" / "export-matrix.json"
PAGE = ROOT / "docs" / "export.md"
MARKS = ("<!-- matrix: made by lab/bench/export_matrix.py -->", "<!-- end of matrix -->")
PACKAGES = ("onnx", "onnxruntime", "openvino", "nncf", "ncnn", "pnnx", "coremltools", "litert-torch", "ai-edge-litert")
THREADS, ROUNDS, IMAGES = 2, 15, 8


def cases(name: str) -> list[dict[str, Any]]:
    """Arguments of the adapter's ``export`` for each case of one format, what matters most first."""
    coarse, gate = {"format": name, "topk": 0}, {"format": name, "topk": 8, "fusion": "gate"}
    newest, bound = {"opset": newest_opset()}, {"max_tokens": 100}
    return [
        gate,
        coarse,
        gate | {"half": True},
        gate | {"int8": True},
        gate | {"dynamic": True},
        gate | {"fusion": "refine"},
        gate | {"batch": 4},
        *([gate | newest, gate | newest | {"dynamic": True}] if name == "onnx" else []),
        *(coarse | more for more in ({"half": True}, {"int8": True}, {"dynamic": True}, {"batch": 4})),
        gate | bound,
        coarse | bound,
    ]


def key(case: dict[str, Any]) -> str:
    """The case as one line, the same in every run."""
    return " ".join(f"{name}={value}" for name, value in case.items() if value is not None)


def measure(case: dict[str, Any], args: argparse.Namespace, images: list[Tensor]) -> dict[str, Any]:
    """Export, run, compare and time one case; what was refused or failed, with its message."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = args.data if case.get("int8") else None
            done = exports.export(args.model, imgsz=args.imgsz, data=data, out=folder, **case)
        except Exception as error:  # a converter fails in its own way, and that is the result
            last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            if ROOT / "src" in last.parents:  # a message of our own
                return {"status": "not here" if isinstance(error, ImportError) else "refused", "reason": str(error)}
            lines = str(error).strip().splitlines() or [""]
            return {"status": "failed", "reason": f"{type(error).__name__}: {lines[0][:300]}"}
        row: dict[str, Any] = {"status": "written", "size_mb": _size_mb(done.path), "clamped": done.clamped}
        if case["format"] == "coreml":
            return row | {"reason": "runs on macOS only"}
        try:
            return row | {"status": "works"} | _run(done, args, images)
        except Exception as error:
            return row | {"status": "failed", "reason": f"run: {type(error).__name__}: {str(error)[:300]}"}


def _run(done: exports.Exported, args: argparse.Namespace, images: list[Tensor]) -> dict[str, Any]:
    model, run = exports.eager(args.model, done), exports.runner(done, threads=THREADS)
    batches = [(images[i : i + done.batch]) for i in range(0, len(images) - done.batch + 1, done.batch)]
    inputs = [(torch.cat(batch),) for batch in batches]
    other = exports.images(done)[2:] if done.dynamic else []  # random images of other sizes and batches
    gap = compare(model, run, inputs + other)
    found = total = 0
    with torch.no_grad():
        for (batch,) in inputs:
            a, b = exports.agreement(model(batch), run(batch))
            found, total = found + a, total + b
        eager_ms, file_ms = _interleaved(model, run, inputs[0][0])
    return {
        "max": gap.max,
        "mean": gap.mean,
        "scale": gap.scale,
        "boxes_same": found,
        "boxes": total,
        "other_sizes": [list(t.shape) for (t,) in other],
        "eager_ms": eager_ms,
        "file_ms": file_ms,
    }


def _interleaved(model: Any, run: Any, batch: Tensor) -> tuple[float, float]:
    """Medians in ms of the model and of the file, timed in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 2):
        for call, kept in zip((model, run), times, strict=True):
            start = time.perf_counter()
            call(batch)
            if turn >= 2:  # the first two warm up
                kept.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def _images(folder: Path, side: int) -> list[Tensor]:
    """Images letterboxed to ``side``, (1, 3, side, side) in [0, 1]."""
    import cv2
    from ultralytics.data.augment import LetterBox

    box: Any = LetterBox((side, side))
    out: list[Tensor] = []
    for path in sorted(folder.glob("*.jpg"))[:IMAGES]:
        pixels = cv2.imread(str(path))
        if pixels is None:
            raise ValueError(f"cannot read {path}")
        picture = box(image=pixels)[..., ::-1].copy()
        out.append(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
    if len(out) < 4:
        raise ValueError(f"found {len(out)} .jpg images in {folder}: need 4 at least")
    return out


def _size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 1e6


def table(result: dict[str, Any]) -> str:
    """The Markdown table, one row for each case that wrote a file, then what was refused or failed, by reason."""
    head = "| format | k | tokens | precision | size | batch | result | MB | max | mean | boxes | latency |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- | --: | --: | --: | --: | --: |"]
    others: dict[tuple[str, str, str], list[str]] = {}
    for row in result["rows"].values():
        case, status = row["case"], row["status"]
        label = _label(case)
        if status not in ("works", "written"):
            others.setdefault((case["format"], status, row["reason"]), []).append(" ".join(label[1:]))
            continue
        figures = [f"{row['size_mb']:.1f}", "", "", "", ""]
        if status == "works":
            same = f"{row['boxes_same']} / {row['boxes']}"
            figures[1:] = f"{row['max']:.2g}", f"{row['mean']:.2g}", same, f"{row['file_ms'] / row['eager_ms']:.2f}"
        lines.append(f"| {' | '.join([*label, status, *figures])} |")
    notes = [f"- **{name}, {status}**: {reason} (k {'; '.join(of)})" for (name, status, reason), of in others.items()]
    return "\n".join([*lines, "", *notes])


def _label(case: dict[str, Any]) -> list[str]:
    """Format, k, coarse tokens, precision, size and batch of a case, as they are shown."""
    fusion, opset = case.get("fusion"), case.get("opset", 17)
    return [
        case["format"] + (f" (opset {opset})" if case["format"] == "onnx" else ""),
        f"{case['topk']}{f' {fusion}' if fusion else ''}",
        str(case.get("max_tokens", "all")),
        "FP16" if case.get("half") else "INT8" if case.get("int8") else "FP32",
        "dynamic" if case.get("dynamic") else "static",
        str(case.get("batch", 1)),
    ]


def write_page(result: dict[str, Any]) -> None:
    """Put the table and where it was measured between the marks of the page."""
    where = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["packages"].items()))
    others: dict[tuple[str, str], set[str]] = {}  # rows of another model than the first ones, by their tokens
    for row in result["rows"].values():
        if row.get("model", result["model"]) != result["model"]:
            tokens = str(row["case"].get("max_tokens", "all"))
            others.setdefault((row["model"], tokens), set()).add(str(row["commit"])[:12])
    about = (
        f"{result['model']} at {result['imgsz']} px, {result['images']} validation images. {where['hardware']['cpu']}, "
        f"{where['hardware']['cores']} cores shared with other work, {THREADS} threads; times are medians of {ROUNDS}, "
        f"model and file in turn. torch {where['versions']['torch']}, ultralytics {where['versions']['ultralytics']}, "
        f"{versions}; commit {str(where['commit'])[:12]}; {result['updated']}."
    )
    about += "".join(
        f" Rows of {tokens} tokens are of {model}, commit {', '.join(sorted(commits))}."
        for (model, tokens), commits in others.items()
    )
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, replace_between(page, MARKS, f"{about}\n\n{table(result)}", PAGE))


def _order(rows: dict[str, Any]) -> dict[str, Any]:
    """Rows in the order of the formats, whichever environment measured first."""
    place = {key(case): i for i, case in enumerate(case for name in FORMATS for case in cases(name))}
    return dict(sorted(rows.items(), key=lambda item: place[item[0]]))


def main() -> None:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="checkpoint of a detector with PST layers")
    parser.add_argument("--data", help="dataset YAML that INT8 is calibrated with")
    parser.add_argument("--images", type=Path, help="folder of .jpg images to compare on")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--first", type=int, help="only the first N cases of each format")
    parser.add_argument("--redo", action="store_true", help="measure again what the JSON has")
    parser.add_argument("--table", action="store_true", help="only write the table from the JSON")
    args = parser.parse_args()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {"rows": {}, "packages": {}}
    if not args.table:
        _measure_all(args, result)
    write_page(result)


def _measure_all(args: argparse.Namespace, result: dict[str, Any]) -> None:
    from ultralytics.utils import LOGGER

    LOGGER.setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    images = _images(args.images, args.imgsz)
    found = {name: version_of(name) for name in PACKAGES}
    for name in args.formats.split(","):
        for case in cases(name)[: args.first]:
            if key(case) in result["rows"] and not args.redo:
                continue
            torch.set_num_threads(THREADS)  # Ultralytics sets its own number
            start = time.perf_counter()
            row = measure(case, args, images)
            result["rows"][key(case)] = {
                "case": case, **row, "seconds": round(time.perf_counter() - start, 1),
                "model": args.model.stem, "commit": commit(),
            }  # fmt: skip
            result["rows"] = _order(result["rows"])
            result["packages"] |= {package: version for package, version in found.items() if version is not None}
            if result.setdefault("model", args.model.stem) == args.model.stem:  # rows of another one name their own
                result |= {
                    "imgsz": args.imgsz, "images": len(images), "seed": 0, "threads": THREADS, "rounds": ROUNDS,
                    "shared_machine": True, "environment": environment(),
                    "updated": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }  # fmt: skip
            write_text(RESULT, json.dumps(result, indent=2) + "\n")
            print(key(case), row["status"], row.get("reason", ""), flush=True)


if __name__ == "__main__":
    main()
