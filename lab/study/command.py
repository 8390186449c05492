"""`python -m lab study`: grids of trainings, one result file for each cell, and the report of what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

from pst.cli._common import Verbs, positive, require
from pst.io.files import check_folder


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "study",
        help="run a grid of trainings and report on it",
        description="Comparisons at equal cost: docs/studies.md says what was found with the studies in lab/studies/.",
    )
    actions = parser.add_subparsers(metavar="run|latency|report", required=True)
    run = actions.add_parser(
        "run",
        help="train and evaluate every cell that has no result yet",
        description="One process for each cell. May be killed at any time, and started several times with one --out, "
        "also on several machines if the file system of that folder has locks.",
    )
    run.add_argument("studies", type=Path, nargs="+", metavar="YAML", help="e.g. lab/studies/*.yaml")
    run.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="folder that holds the data sets")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for results and checkpoints")
    run.add_argument("--jobs", type=positive, default=1, metavar="N", help="cells at a time (%(default)s)")
    run.add_argument("--filter", default="", metavar="TEXT", help="only cells with this in their names")
    run.add_argument("--deadline", type=positive, metavar="SECONDS", help="stop in an orderly way after this time")
    run.add_argument("--device", choices=("cpu", "cuda"), help="(cuda where there is one)")
    run.set_defaults(run=_run)
    latency = actions.add_parser("latency", help="time the study's models side by side, on an idle machine")
    latency.add_argument("study", type=Path, metavar="YAML")
    latency.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the result files")
    latency.add_argument("--batch", type=positive, default=1, metavar="N", help="images in a pass (%(default)s)")
    latency.add_argument("--seconds", type=positive, default=60, metavar="S", help="for all models (%(default)s)")
    latency.add_argument("--device", choices=("cpu", "cuda"), help="(cuda where there is one)")
    latency.set_defaults(run=_latency)
    report = actions.add_parser("report", help="tables and plots of the results: Markdown, HTML, PNG")
    report.add_argument("studies", type=Path, nargs="+", metavar="YAML", help="e.g. lab/studies/*.yaml")
    report.add_argument("--results", type=Path, required=True, metavar="DIR", help="folder of the result files")
    report.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="(%(default)s)")
    report.set_defaults(run=_report)


def _run(args: argparse.Namespace) -> int:
    require("yaml", "train")
    require("filelock", "bench")
    check_folder(args.out)
    from lab.study import run_studies

    done = run_studies(
        args.studies,
        data_root=args.data_root,
        out=args.out,
        jobs=args.jobs,
        only=args.filter,
        deadline=args.deadline,
        device=_device(args),
        show=lambda line: print(line, flush=True),
    )
    return 0 if done else 1


def _latency(args: argparse.Namespace) -> int:
    require("yaml", "train")
    from lab.study import latency

    check_folder(args.out)
    path = latency.measure(args.study, args.out, device=_device(args), batch=args.batch, seconds=float(args.seconds))
    print(f"Written: {path}")
    return 0


def _device(args: argparse.Namespace) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if args.device is None else args.device


def _report(args: argparse.Namespace) -> int:
    require("yaml", "train")
    require("matplotlib", "viz")
    from lab.study.studies_page import write_report

    check_folder(args.out)
    for path in write_report(args.studies, results=args.results, out=args.out):
        print(f"Written: {path}")
    return 0
