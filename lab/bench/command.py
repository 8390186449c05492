"""``python -m lab bench``: speed and memory side by side on this machine, and the project's targets."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.page import replace_between
from pst.cli._common import Verbs, format_table, positive, require
from pst.io.files import check_folder, check_ours, read_json, write_text

if TYPE_CHECKING:
    from lab.bench import Plan

_SUITES = ("module", "train", "window", "bounded", "model", "export", "import")
_NEEDS = {"model": ("ultralytics",), "export": ("ultralytics", "onnx", "onnxruntime", "openvino")}
_MARKS = ("<!-- figures: made by lab bench report -->", "<!-- end of figures -->")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "bench",
        help="speed and memory against the textbook attention, other necks and plain models",
        description="Cases of one comparison take turns in one process; the median is quoted. module: the attention "
        "layer, and other layers and necks. train: a training step of a PST layer. window: attention to another frame, "
        "each block of queries with its own tokens. bounded: with few coarse tokens. model: whole detectors. export: "
        "their files in ONNX Runtime and OpenVINO. import: fresh interpreters. targets: all seven, and which targets "
        "they meet. check: the same in about two minutes, nothing written. report: the page of what was measured.",
    )
    parser.add_argument("suite", nargs="?", choices=(*_SUITES, "targets", "check", "report"), default="module")
    parser.add_argument("--seconds", type=positive, help="time for each comparison (4; 1 with --quick and check)")
    parser.add_argument("--threads", type=positive, help="PyTorch threads (every core)")
    parser.add_argument("--quick", action="store_true", help="maps up to 40×40, images of 320 px, few models")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for module, train and model (%(default)s)")
    parser.add_argument("--only", type=_suites, default=_SUITES, metavar="SUITE,…", help="targets and check: these")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("--page", type=Path, default=Path("docs/speed.md"), help="report: the page (%(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write and print; a missed target is not an error."""
    if args.suite == "report":
        return _report(args)
    check_folder(args.out)
    _check_device(args.device)
    suites = args.only if args.suite in ("targets", "check") else (args.suite,)
    require("tqdm", "bench")
    require("matplotlib", "bench")
    for package in (package for suite in suites for package in _NEEDS.get(suite, ())):
        require(package, "bench")
    _set_threads(args.threads)
    plan = _plan(args)
    if args.suite == "check":
        with tempfile.TemporaryDirectory() as folder:
            _measure(suites, plan, Path(folder))
            _print_targets(Path(folder))
        return 0
    for name in suites:
        check_ours(args.out / f"{name}.json", '"hardware"')
        check_ours(args.out / f"{name}.png", "Matplotlib")
    check_ours(args.out / "targets.json", '"targets"')
    _measure(suites, plan, args.out)
    if args.suite == "targets":
        _print_targets(args.out)
    return 0


def _check_device(device: str) -> None:
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {device!r}")
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {device} needs an NVIDIA GPU, and PyTorch sees none here")


def _plan(args: argparse.Namespace) -> Plan:
    from lab.bench import CHECK, FULL, QUICK

    plan = QUICK if args.quick else CHECK if args.suite == "check" else FULL
    plan = replace(plan, device=args.device)
    return plan if args.seconds is None else replace(plan, seconds=float(args.seconds))


def _measure(suites: tuple[str, ...], plan: Plan, out: Path) -> None:
    """Each suite into its own file as soon as it is done: a run that was stopped goes on with --only."""
    from lab.bench import measure_suite
    from lab.bench.speed_page import origin, tables
    from lab.bench.speed_plots import plot_cases

    for name in suites:
        begin = time.monotonic()
        print(f"{name} …", flush=True)
        result = measure_suite(name, plan)
        path = out / f"{name}.json"
        write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        print(f"{origin(result)}")
        for title, (header, rows) in tables(result).items():
            print(f"\n{title}\n{format_table(header, rows)}")
        if name in ("module", "train"):
            plot_cases(result["records"], out / f"{name}.png", f"{name}: {result['hardware']['cpu']}")
        print(f"\nWritten: {path} ({time.monotonic() - begin:.0f} s)\n", flush=True)


def _print_targets(folder: Path) -> None:
    """Judge every suite that ``folder`` holds, write targets.json beside them, print the table."""
    from lab.bench.speed_page import targets_table

    judged = _judge(folder)
    write_text(folder / "targets.json", json.dumps(judged, indent=1, ensure_ascii=False) + "\n")
    header, rows = targets_table(judged["targets"])
    print(format_table(header[:-1], [row[:-1] for row in rows]))
    for row, record in zip(rows, judged["targets"], strict=True):
        if record["met"] is False:
            print(f"missed: {row[0]} {row[2]}, wanted {row[1]} ({row[-1]})")


def _judge(folder: Path) -> dict[str, Any]:
    from lab.bench.targets import judge
    from pst.profile.environment import environment

    suites = _load(folder)
    origins = {name: {key: suite[key] for key in ("created", "commit", "roofline")} for name, suite in suites.items()}
    return {"targets": judge(suites), "suites": origins, **environment()}


def _load(folder: Path) -> dict[str, Any]:
    paths = {name: folder / f"{name}.json" for name in _SUITES}
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def _report(args: argparse.Namespace) -> int:
    """Write the figures between the marks of the page again, and its plots."""
    require("matplotlib", "bench")
    from lab.bench.speed_page import page_part
    from lab.bench.speed_plots import plot_cases

    suites = _load(args.out)
    if not suites:
        raise FileNotFoundError(f"no results in {args.out}: run python -m lab bench targets --out {args.out} first")
    text = args.page.read_text("utf-8")
    replace_between(text, _MARKS, "", args.page)  # refuses before plots are written
    judged = read_json(args.out / "targets.json")["targets"]
    plots = []
    for name in ("module", "train"):
        if name in suites:
            plots.append(f"assets/speed-{name}.png")
            plot_cases(
                suites[name]["records"], args.page.parent / plots[-1], f"{name}: {suites[name]['hardware']['cpu']}"
            )
    write_text(args.page, replace_between(text, _MARKS, page_part(judged, suites, plots), args.page))
    print(f"Written: {args.page}")
    return 0


def _suites(text: str) -> tuple[str, ...]:
    """Argument type: suites with commas between them."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in _SUITES]:
        raise argparse.ArgumentTypeError(f"no suite {', '.join(unknown)}: choose from {','.join(_SUITES)}")
    return names


def _set_threads(threads: int | None) -> None:
    """Fix the number before ultralytics is imported, which sets one thread where OMP_NUM_THREADS is unset."""
    import torch

    from pst.profile.environment import hardware

    count = threads if threads is not None else hardware()["cores"]
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
    torch.set_num_threads(int(str(count)))
