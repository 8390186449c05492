"""`python -m lab two-maps`: what fine attention is worth between two maps of different places."""

from __future__ import annotations

import argparse
from pathlib import Path

from pst.cli._common import Verbs, positive, require
from pst.io.files import check_folder

RESULTS = Path("lab/results/two-maps")
TASKS = ("labels", "colour", "matching", "trained", "tool", "cost")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "two-maps",
        help="what fine attention is worth between two frames or photos",
        description="Labels, colours and places carried from one picture to another; see docs/two-maps.md.",
    )
    actions = parser.add_subparsers(metavar="run|report", required=True)
    run = actions.add_parser(
        "run",
        help="evaluate every row that has no result yet",
        description="One thread, about two hours for everything. May be killed at any time: it goes on where it was.",
    )
    run.add_argument("--camvid", type=Path, metavar="DIR", help="folder of CamVid; every task but matching needs it")
    run.add_argument("--voc", type=Path, metavar="DIR", help="folder of VOC photos; matching needs it")
    run.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results (%(default)s)")
    run.add_argument(
        "--every", type=positive, default=1, metavar="N", help="only each N-th pair or photo (%(default)s)"
    )
    run.add_argument("--task", action="append", choices=TASKS, help="only this one; may be repeated (all)")
    run.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="pairs of the task tool at a time (%(default)s)"
    )
    run.set_defaults(run=_run)
    report = actions.add_parser("report", help="tables and plots of the results: Markdown and PNG")
    report.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="their folder (%(default)s)")
    report.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="(%(default)s)")
    report.set_defaults(run=_report)


def _run(args: argparse.Namespace) -> int:
    require("timm", "propagate")
    require("cv2", "bench")
    require("tqdm", "bench")
    check_folder(args.out)
    tasks = TASKS if args.task is None else tuple(task for task in TASKS if task in args.task)
    if args.jobs > 1 and "tool" not in tasks:
        raise ValueError("--jobs is of the task tool alone: leave it out, or add --task tool")
    for name, needed in (("camvid", set(tasks) - {"matching"}), ("voc", set(tasks) & {"matching"})):
        if needed and getattr(args, name) is None:
            raise ValueError(f"{', '.join(sorted(needed))} needs --{name} DIR")
    import cv2
    import torch

    from lab.two_maps import colour, cost, matching, run_labels, run_trained, tool

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for task in tasks:
        if task == "labels":
            run_labels.run(args.camvid, args.out, every=args.every)
        elif task == "colour":
            colour.run(args.camvid, args.out, every=args.every)
        elif task == "matching":
            matching.run(args.voc, args.out, every=args.every)
        elif task == "tool":
            tool.run(args.camvid, args.out, every=args.every, jobs=args.jobs)
        elif task == "trained":
            run_trained.run(args.camvid, args.out, every=args.every)
        else:
            cost.run(args.camvid, args.out)
    return 0


def _report(args: argparse.Namespace) -> int:
    require("matplotlib", "viz")
    check_folder(args.out)
    from lab.two_maps.page import write_report

    for path in write_report(args.results, args.out):
        print(f"Written: {path}")
    return 0
