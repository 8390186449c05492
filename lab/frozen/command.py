"""`python -m lab frozen`: which neck for which job, on a network that was trained on ImageNet."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from pst.cli._common import Verbs, positive, require
from pst.io.files import check_folder

RESULTS = Path("lab/results/frozen")
RUNS = Path("runs/frozen")
DOCS = Path("docs")
SETS = ("camvid", "bccd", "voc")
EPOCHS = {"camvid": 12, "bccd": 12, "voc": 6}  # VOC has four times the pictures


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "frozen",
        help="which neck for which job, on a frozen network that was trained on ImageNet",
        description="Necks and decoders of equal cost on the maps of tf_efficientnet_lite0; see docs/frozen.md.",
    )
    actions = parser.add_subparsers(metavar="repeat|run|latency|report|pack|weights|widths", required=True)
    _add_repeat(actions)
    _add_run(actions)
    latency = actions.add_parser("latency", help="time every neck side by side, with nothing else on the device")
    _add_device(latency)
    latency.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(%(default)s)")
    _add_seconds(latency)
    latency.set_defaults(run=_latency)
    report = actions.add_parser("report", help="write the tables and the picture of docs/frozen.md")
    report.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="their folder (%(default)s)")
    report.add_argument("--out", type=Path, default=DOCS, metavar="DIR", help="(%(default)s)")
    report.set_defaults(run=_report)
    pack = actions.add_parser("pack", help="put a data set into one small file, for `run` elsewhere")
    pack.add_argument("name", choices=SETS)
    pack.add_argument("folder", type=Path)
    pack.add_argument("file", type=Path)
    pack.add_argument("--format", choices=("jpeg", "webp"), default="jpeg", help="of the pictures (%(default)s)")
    pack.add_argument("--quality", type=positive, default=95, help="of the pictures (%(default)s)")
    pack.set_defaults(run=_pack)
    weights = actions.add_parser("weights", help="write the network's weights, without its classifier, to a file")
    weights.add_argument("file", type=Path)
    weights.set_defaults(run=_weights)
    widths = actions.add_parser("widths", help="search the widths that give every row the same cost")
    widths.set_defaults(run=_widths)


def _add_repeat(actions: Verbs) -> None:
    repeat = actions.add_parser(
        "repeat",
        help="the whole study: pack, train every cell with the network frozen and trained, time, write the page",
        description="May be killed at any time: what is finished stays. Another --out begins anew.",
    )
    for name in SETS:
        repeat.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help="folder of the data set")
    repeat.add_argument("--packed", type=Path, default=RUNS, metavar="DIR", help="of packs, kept (%(default)s)")
    repeat.add_argument("--docs", type=Path, default=DOCS, metavar="DIR", help="folder of the page (%(default)s)")
    _add_training(repeat, RUNS / "results")
    _add_seconds(repeat)
    repeat.set_defaults(run=_repeat)


def _add_run(actions: Verbs) -> None:
    run = actions.add_parser(
        "run",
        help="train every cell that has no result yet",
        description="May be killed at any time: cells that are finished stay.",
    )
    for name in SETS:
        run.add_argument(f"--{name}", type=Path, metavar="PATH", help="folder, or file of `frozen pack`")
    _add_training(run, RESULTS)
    run.add_argument("--deadline", type=positive, metavar="S", help="stop after so many seconds")
    run.add_argument("--trained", action="store_true", help="train the network as well")
    run.set_defaults(run=_run)


def _add_training(parser: argparse.ArgumentParser, out: Path) -> None:
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="folder of the results (%(default)s)")
    _add_device(parser)
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (%(default)s)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of the network (the installed package's)")
    parser.add_argument("--network", default="tf_efficientnet_lite0", help="timm's name of it (%(default)s)")
    parser.add_argument("--row", action="append", metavar="NAME", help="only this one; may be repeated (all)")
    parser.add_argument("--seeds", type=positive, metavar="N", help="(5; 3 with the network trained)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="(12; 6 on VOC)")
    parser.add_argument("--batch", type=positive, default=8, help="(%(default)s)")
    parser.add_argument("--lr", type=_rate, default=1e-3, help="(%(default)s)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only so many pictures of each split (all)")


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return value


def _add_seconds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=positive, default=60, metavar="S", help="to time all rows (%(default)s)")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")


def _repeat(args: argparse.Namespace) -> int:
    require("matplotlib", "viz")
    require("faster_coco_eval", "train")
    _check_training(args)
    check_folder(args.packed)
    from lab.frozen.pack import about, pack
    from lab.frozen.page import check_page

    check_page(args.docs)
    sets = {name: args.packed / f"{name}.zip" for name in SETS}
    for name, file in sets.items():
        if not (folder := getattr(args, name)).is_dir():
            raise FileNotFoundError(f"no folder {folder}: give that of the data set with --{name}")
        if file.is_file():
            about(file, name)
    args.packed.mkdir(parents=True, exist_ok=True)
    for name, file in sets.items():
        if not file.is_file():
            pack(name, getattr(args, name), file)
    for trained in (False, True):
        _train(args, sets, trained=trained)
    _latency(args)
    return _report(argparse.Namespace(results=args.out, out=args.docs))


def _run(args: argparse.Namespace) -> int:
    sets = {name: getattr(args, name) for name in SETS if getattr(args, name) is not None}
    if not sets:
        raise ValueError("give a data set: --camvid, --bccd or --voc with its folder or a file of `frozen pack`")
    _check_training(args)
    from lab.frozen.pack import about

    for name, path in sets.items():
        if not path.is_dir():
            about(path, name)
    until = float("inf") if args.deadline is None else time.time() + args.deadline
    left = _train(args, sets, trained=args.trained, until=until)
    print(f"{left} cells are left for the next run" if left else "All cells are done")
    return 0


def _check_training(args: argparse.Namespace) -> None:
    """Raise for what every training would stumble over."""
    require("timm", "propagate")
    require("torchvision", "torchvision")
    check_folder(args.out)
    if args.weights is not None and not args.weights.is_file():
        raise FileNotFoundError(f"no file {args.weights}: make it with `python -m lab frozen weights`")


def _train(args: argparse.Namespace, sets: dict[str, Path], *, trained: bool, until: float = float("inf")) -> int:
    """Train the cells that have no result yet; how many were left at the deadline."""
    from lab.frozen.run import Job, cells, run
    from lab.frozen.schedule import Recipe

    recipes = {name: Recipe(args.epochs or EPOCHS[name], args.batch, args.lr) for name in sets}
    args.out.mkdir(parents=True, exist_ok=True)
    job = Job(sets, args.out, args.device, recipes, args.weights, args.network, trained, args.limit, until)
    return run(job, cells(job, args.row, args.seeds), args.jobs)


def _latency(args: argparse.Namespace) -> int:
    from lab.frozen.latency import measure

    print(f"Written: {measure(args.out, args.device, args.seconds)}")
    return 0


def _report(args: argparse.Namespace) -> int:
    require("matplotlib", "viz")
    check_folder(args.out)
    from lab.frozen.page import write_report

    for path in write_report(args.results, args.out):
        print(f"Written: {path}")
    return 0


def _pack(args: argparse.Namespace) -> int:
    from lab.frozen.pack import pack

    pack(args.name, args.folder, args.file, args.format, args.quality)
    print(f"Written: {args.file}, {args.file.stat().st_size / 1e6:.1f} MB")
    return 0


def _weights(args: argparse.Namespace) -> int:
    require("timm", "propagate")
    from lab.frozen.maps import save_weights

    save_weights(args.file)
    print(f"Written: {args.file}, {args.file.stat().st_size / 1e6:.1f} MB")
    return 0


def _widths(args: argparse.Namespace) -> int:
    del args
    from lab.frozen import smp
    from lab.frozen.widths import write_widths

    if not smp.is_installed():
        raise ImportError("the widths of all rows are searched together: pip install segmentation-models-pytorch")
    write_widths()
    return 0
