"""`pst reproduce`: the paper's trainings, from the check for the data to a table beside the paper's figures."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pst.cli import yolo
from pst.cli._common import Verbs, add_verb, format_table, host_errors, require
from pst.io.files import check_folder, read_json, write_text

if TYPE_CHECKING:
    from pst.integrations.ultralytics.reproduce import Recipe

_SCALES = ("n", "s", "m")
_MODELS = ("resnet18", "resnet50", "resnet101", "yolo11n", "yolo11s", "yolo11m")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "reproduce",
        help="the paper's trainings on COCO and ImageNet",
        examples=["reproduce coco --scale n --dry-run", "reproduce imagenet --model resnet18 --data /data/imagenet"],
        description="Train by the paper's recipe. Looks for the data first, prints the command that it runs, goes on "
        "where an earlier run of it stopped, and ends with the figure measured beside the paper's.",
    )
    sets = parser.add_subparsers(metavar="coco|imagenet", required=True)
    coco = sets.add_parser("coco", help="YOLO11-PST, detection: 600 epochs")
    coco.add_argument("--scale", choices=_SCALES, required=True, help="size of the model")
    coco.add_argument("--baseline", action="store_true", help="YOLO11 itself, for the gain that the paper quotes")
    coco.set_defaults(recipe=lambda recipes, args: recipes.coco(args.scale, baseline=args.baseline))
    imagenet = sets.add_parser("imagenet", help="ResNet-PST and YOLO11-cls-PST, classification: 200 epochs")
    imagenet.add_argument("--model", choices=_MODELS, required=True)
    imagenet.set_defaults(recipe=lambda recipes, args: recipes.imagenet(args.model))
    for each in (coco, imagenet):
        each.add_argument("--data", help="your copy of the data: a dataset YAML for COCO, a folder for ImageNet")
        each.add_argument("--download", action="store_true", help="let Ultralytics download what is missing")
        each.add_argument("--device", help="cpu, 0, 0,1, … (the best there is)")
        each.add_argument(
            "--out", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="folder (%(default)s)"
        )
        each.add_argument("--dry-run", action="store_true", help="only say what would be done")
        each.add_argument(
            "extra", nargs="*", type=_argument, metavar="ARG=VALUE", help="for Ultralytics; departs from the recipe"
        )
        each.set_defaults(run=run, again="; the same command continues")


def run(args: argparse.Namespace) -> int:
    """Check, train, evaluate, print the table."""
    require("ultralytics", "ultralytics")
    from pst.integrations.ultralytics import reproduce

    check_folder(args.out)
    recipe: Recipe = args.recipe(reproduce, args)
    data = recipe.data if args.data is None else args.data
    folder = args.out.resolve() / recipe.name
    extra = [*([] if args.device is None else [f"device={args.device}"]), *args.extra]
    command = reproduce.train_command(recipe, data, folder, extra)
    print(f"Command: {shlex.join(['pst', 'yolo', *command])}")
    with host_errors(f"read {data}"):
        if args.dry_run:
            return _dry_run(recipe, data, folder)
        print(f"Data: {_find(recipe, data, download=args.download)}")
    last = folder / "weights" / "last.pt"
    done, epochs = reproduce.epochs_done(last) if last.is_file() else (0, None)
    if done == epochs:
        print(f"Trained already: {folder}")
    else:
        yolo.run(argparse.Namespace(passed_on=command))
    device = None if args.device is None else args.device.split(",")[0]
    with host_errors(f"validate {folder / 'weights' / 'best.pt'} on {data}"):
        _evaluate(recipe, data, folder, device)
    print(_table(recipe, args.out))
    return 0


def _argument(text: str) -> str:
    if "=" not in text.lstrip("="):
        raise argparse.ArgumentTypeError(f"expected ARG=VALUE, e.g. workers=16, got {text!r}")
    return text


def _dry_run(recipe: Recipe, data: str, folder: Path) -> int:
    from pst.integrations.ultralytics import reproduce

    try:
        print(f"Data: {reproduce.check_data(recipe, data)}")
    except FileNotFoundError as error:
        print(f"Data: {error}")
    print(
        f"Result: {folder / 'reproduce.json'}, {recipe.metric_name} of best.pt; the paper: {_gain(recipe.paper_gain)}"
    )
    return 0


def _find(recipe: Recipe, data: str, *, download: bool) -> str:
    """What there is of the data; downloads only what is missing and only when told to."""
    from pst.integrations.ultralytics import reproduce

    try:
        return reproduce.check_data(recipe, data)
    except FileNotFoundError:
        if not download:
            raise
    reproduce.download(recipe, data)
    return reproduce.check_data(recipe, data)


def _evaluate(recipe: Recipe, data: str, folder: Path, device: str | None) -> None:
    """Write reproduce.json."""
    from pst.integrations.ultralytics import reproduce
    from pst.profile.environment import environment

    best = folder / "weights" / "best.pt"
    figures = list(reproduce.evaluate(recipe, best, data, device=device, save_dir=str(folder / "val")))
    result = {**recipe._asdict(), "figures": [figure._asdict() for figure in figures], **environment()}
    write_text(folder / "reproduce.json", json.dumps(result, indent=2, default=str) + "\n")


def _table(recipe: Recipe, out: Path) -> str:
    """Figures of this training and, where it has been trained, of its baseline, in percent."""
    rows: list[list[str]] = []
    base = None
    if recipe.baseline is not None and (file := out / recipe.baseline / "reproduce.json").is_file():
        base = _figures(file)[0]["value"]
        rows.append([recipe.baseline, "", "", f"{100 * base:.2f}", "", ""])
    for figure in _figures(out / recipe.name / "reproduce.json"):
        k, fusion = ("" if figure[key] is None else str(figure[key]) for key in ("topk", "fusion"))
        gain = "–" if base is None else f"{100 * (figure['value'] - base):+.2f}"
        rows.append([recipe.name, k, fusion, f"{100 * figure['value']:.2f}", gain, _gain(recipe.paper_gain)])
    header = ("training", "k", "fusion", f"{recipe.metric_name} %", "gain", "gain in the paper")
    note = "" if base is not None or recipe.baseline is None else f"\nNo gain without {recipe.baseline}: --baseline"
    return format_table(header, rows) + note


def _figures(path: Path) -> list[dict[str, Any]]:
    return read_json(path)["figures"]


def _gain(points: float | None) -> str:
    return "–" if points is None else f"{points:+.1f}"
