"""`pst predict`: pictures and JSON of what a model of `pst train` finds in images."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from pst.cli._common import Verbs, add_verb, check_run, free_folder, natural, require, share, show_log
from pst.io.names import counted


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "predict",
        help="classes, boxes or masks of images, as pictures and JSON",
        examples=["predict --model runs/train/cells photos/ new.jpg --out runs/predict/new"],
        description="Run a model of pst train on images. Checkpoints of Ultralytics: pst yolo predict model=best.pt.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="RUN", help="run folder or its .safetensors")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, or folders of images")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the pictures (runs/predict/ and the training's name)"
    )
    parser.add_argument("--topk", type=natural, metavar="K", help="k of all PST layers (the run's own)")
    parser.add_argument("--fusion", choices=("gate", "refine"), help="of coarse and fine attention (the run's own)")
    parser.add_argument("--selection", metavar="RULE", help="which tokens are refined (the run's own)")
    parser.add_argument("--score", type=share, default=0.3, metavar="S", help="lowest score of a box (%(default)s)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (%(default)s)"
    )
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out images that cannot be decoded")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, and say where the result is."""
    require("accelerate", "train")
    from pst.train.predict import predict_images

    if args.model.suffix == ".pt":
        if args.model.is_file():
            from pst.io.safe_load import check_whole

            check_whole(args.model)
        source = " ".join(f"source={shlex.quote(str(image))}" for image in args.images[:1])
        raise ValueError(
            f"{args.model} is a checkpoint of Ultralytics, not of pst train: "
            f"pst yolo predict model={shlex.quote(str(args.model))} {source}"
        )
    check_run(args.model)
    show_log()
    out = free_folder(Path("runs/predict"), args.model) if args.out is None else args.out
    options = {name: getattr(args, name) for name in ("topk", "fusion", "selection", "score", "device", "skip_corrupt")}
    entries = predict_images(args.model, args.images, out, **options)
    print(f"Written: {counted(len(entries), 'picture')} and {out / 'predictions.json'}; open {out}")
    return 0
