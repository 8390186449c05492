"""`pst yolo …`: Ultralytics' own command with the PST layers and models known to it."""

from __future__ import annotations

import argparse
import shlex
import sys

from pst.cli._common import Verbs, host_errors, require

_HOW = (
    "Settings of PST are options of pst val and pst export, or of the rows of a model's YAML: pst val --help; "
    "to predict with k, run the file of pst export --topk 8"
)
_HELP = """pst yolo TASK MODE ARG=VALUE … is Ultralytics' own command, which knows these models as well:
  yolo11n-pst-neck.yaml   a PST neck in YOLO11n; likewise for n, s, m, l, x, other YOLOs and tasks
  yolo11n-pst.yaml        the paper's detector
  pst info --models       lists them all
k and the other settings of PST: pst val --model best.pt --data data.yaml --topk 0,8
What follows is Ultralytics' own help.
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb; it takes no options, for all that follows it belongs to Ultralytics."""
    verbs.add_parser(
        "yolo",
        add_help=False,
        usage="pst yolo TASK MODE ARG=VALUE … [--trust]",
        help="the yolo command, with PST, e.g. pst yolo detect train model=yolo11n-pst.yaml data=coco8.yaml",
    ).set_defaults(run=run, again="; a training continues with pst yolo TASK train resume=True model=…/weights/last.pt")


def run(args: argparse.Namespace) -> int:
    """Run Ultralytics' entry point on the arguments after the verb; ``--trust`` among them is ours.

    Raises:
        ImportError: Ultralytics is not installed.
        ValueError: Ultralytics refused the arguments.
    """
    require("ultralytics", "ultralytics")
    trust = "--trust" in args.passed_on
    passed_on = [arg for arg in args.passed_on if arg != "--trust"]
    if passed_on in ([], ["--help"], ["-h"], ["help"]):
        print(_HELP)
        passed_on = ["help"]
    sys.argv[:] = ["yolo", *passed_on]  # in place: Ultralytics keeps this very list when it is imported
    from pst.integrations.ultralytics import guard, register
    from pst.integrations.ultralytics.host import entrypoint
    from pst.modules.settings import Options

    register()
    with host_errors(f"run {shlex.join(sys.argv)}"):
        try:
            with guard.told(), guard.protected(not trust):
                entrypoint()
        except SyntaxError as error:  # what it raises for an argument that it does not know
            # the host's page of help comes after its sentence
            said = " ".join(error.msg.partition("Arguments received:")[0].split())
            asked = any(arg.partition("=")[0] in Options.__annotations__ for arg in passed_on)
            raise ValueError(f"{said} {_HOW}" if asked else said) from error
    return 0
