"""`pst train`: classification, detection and segmentation without Ultralytics."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from pst.cli._common import Verbs, add_verb, require, show_log

_TASKS = ("classify", "detect", "segment")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "train",
        allow_abbrev=False,  # what follows --config is known by that name
        usage="pst train [-h] [--settings] [--config YAML] [--resume [--changed-data]] [--skip-corrupt] [--debug] "
        "TASK [KEY=VALUE …]",
        help="train a classifier, detector or segmenter: pst train classify data=FOLDER model=pst_resnet18",
        examples=[
            "train detect data=blood.yaml model=fcos backbone=resnet18 out=runs/cells",
            "train detect data=blood.yaml model=fcos backbone=resnet18 out=runs/cells --resume",
        ],
        description="Train a model. Every setting is key=value, or a line of a YAML file; pst train TASK --settings "
        "lists them, and docs/train.md says what they mean. "
        "Several processes: torchrun --nproc-per-node 2 -m pst train …",
    )
    parser.add_argument("task", metavar="TASK", choices=_TASKS, help=f"what the model does: {', '.join(_TASKS)}")
    parser.add_argument(
        "--settings", action="store_true", help="print every setting and its value as YAML, for --config; train nothing"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings in a file")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in out=…; without data=… and --config it takes the settings that the run saved",
    )
    parser.add_argument("--changed-data", action="store_true", help="resume although files, labels or classes changed")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out images that cannot be decoded")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the result is."""
    if args.changed_data and not args.resume:
        raise ValueError("--changed-data goes with --resume: a new run takes the data as they are")
    for module in ("accelerate", "timm", "torchvision", "torchmetrics", "faster_coco_eval", "yaml"):
        require(module, "train")
    from pst.train import fit, load_config
    from pst.train.state import as_yaml

    show_log()
    overrides = [*args.passed_on, *(["skip_corrupt=true"] if args.skip_corrupt else [])]
    from accelerate import PartialState

    file = _settings_file(args)
    if args.settings and file is None and not _names_data(args):
        overrides = ["data=DATA", *overrides]  # the one setting without a default
    config = load_config(args.task, file, overrides)
    if args.settings:
        print(as_yaml(config), end="")
        return 0
    try:
        folder = fit(config, resume=args.resume, changed_data=args.changed_data)
    except KeyboardInterrupt:
        args.again = _again(config.run_dir)
        raise
    PartialState().destroy_process_group()
    print(f"Written: {folder}")
    print(f"Next: pst val --model {shlex.quote(str(folder))}")
    return 0


def _names_data(args: argparse.Namespace) -> bool:
    return any(text.startswith("data=") for text in args.passed_on)


def _settings_file(args: argparse.Namespace) -> Path | None:
    """The YAML that was given; without one, and without data=…, ``--resume`` takes the settings that the run saved."""
    if args.config is not None or not args.resume or _names_data(args):
        return args.config
    from pst.train import load_config
    from pst.train.state import CONFIG

    out = [text for text in args.passed_on if text.startswith("out=")]
    file = load_config(args.task, overrides=["data=.", *out]).run_dir / CONFIG
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no run to resume in {file.parent}: check out=…, or give data=… for a new run"
        )
    return file


def _again(folder: Path) -> str:
    """What an interrupted run can go on from."""
    from pst.train.state import STATE, check_state, read_state

    file = folder / STATE
    if not file.exists():
        return " before anything was saved; the same command with --resume starts anew"
    position = check_state(read_state(file), file).position
    return f"; the same command with --resume goes on {position}"
