"""`pst propagate`: masks and points of a few frames carried through a video, or many."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pst.cli._common import Verbs, add_verb, natural, positive, require, share, show_log
from pst.cli._plain import printable

_EXAMPLES = (
    "propagate clip.mp4 --mask 0=first.png --mask 120=later.png --out runs/clip",
    "propagate clips/ --masks masks/ --out runs/ --jobs 2",
)


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "propagate",
        help="masks and points of a few frames, carried through a video",
        description="Carry masks and points from annotated frames to all frames of a clip, forward and backward, by "
        "attention between frames. Nothing is trained. A mask is a PNG of the frame's size whose values are labels, "
        "255 unlabelled. After an interruption the same command continues where it stopped.",
        examples=_EXAMPLES,
    )
    parser.add_argument("clip", type=Path, help="video, folder of images, or folder of such clips")
    parser.add_argument(
        "--mask", type=_pair, action="append", default=[], metavar="FRAME=PNG", dest="mask",
        help="mask of a frame, by its number from 0 or its image's name; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="folder of masks named as their frames; of many clips, one folder for each",
    )
    parser.add_argument("--points", type=Path, metavar="CSV", help="points to carry as well: frame,id,x,y")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--topk", type=natural, metavar="K", help="coarse positions that are looked at finely (8)")
    parser.add_argument(
        "--size",
        type=natural,
        metavar="N",
        help="longer side that frames are resized to, at most twice their own, in pixels (960)",
    )
    parser.add_argument(
        "--threshold",
        type=share,
        metavar="T",
        help="pixels whose label has less than T of the attention get 255 (0)",
    )
    parser.add_argument("--memory", type=natural, metavar="N", help="last frames that are remembered (1)")
    parser.add_argument("--device", default="cpu", help="where to compute, as torch names it (%(default)s)")
    parser.add_argument("--features", metavar="NAME", help="network of timm to match frames by (tf_efficientnet_lite0)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="its weights, .safetensors or of torch.save")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="clips at a time (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace results made with something else")
    parser.add_argument("--no-video", action="store_true", help="write no overlay.mp4")
    parser.set_defaults(run=run, again="; the same command continues")


def _pair(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"expected FRAME=PNG, e.g. 0=first.png, got {text!r}")
    return name, Path(path)


def run(args: argparse.Namespace) -> int:
    """Carry, and say where to look; 1 if one of many clips failed."""
    for module in ("PIL", "filelock", "numpy", "timm", "tqdm"):
        require(module, "propagate")
    show_log()
    from pst.propagate.many import find_clips
    from pst.propagate.network import Network

    named = {name: getattr(args, name) for name in ("topk", "size", "threshold", "memory")}
    options: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    chosen = {} if args.features is None else {"features": args.features}
    options["network"] = Network(**chosen, weights=args.weights, device=args.device)
    options |= {"video": not args.no_video, "overwrite": args.overwrite}
    if args.clip.is_dir() and find_clips(args.clip):
        return _run_many(args, options)
    return _run_one(args, options)


def _run_one(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from pst.propagate.clip import propagate_clip
    from pst.propagate.masks import masks_in

    pairs = [*args.mask, *([] if args.masks is None else masks_in(args.masks))]
    result = propagate_clip(args.clip, pairs, args.out, points=args.points, **options)
    if result.carried == 0:
        print(f"{args.out} is finished already: {result.frames} frames; open {result.out / 'sheet.jpg'}")
        return 0
    print(f"Written: {result.frames} frames in {result.out}; open {result.out / 'sheet.jpg'}")
    return 0


def _run_many(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from pst.propagate.many import propagate_clips

    if args.mask or args.points is not None:
        raise ValueError(
            f"{args.clip} is a folder of clips: name one of them, or give --masks DIR with a folder for each, "
            "not --mask or --points"
        )
    if args.masks is None:
        raise ValueError(f"no masks for the clips of {args.clip}: give --masks DIR with a folder for each")
    failed, done = [], 0
    for outcome in propagate_clips(args.clip, args.masks, args.out, jobs=args.jobs, **options):
        if outcome.error is not None:
            failed.append(outcome)
            state = "failed"
        else:
            done += 1
            state = f"{outcome.carried} frames" if outcome.carried else "finished already"
        print(f"{printable(outcome.name)}: {state}", flush=True)
    print(f"Written: {done} of {done + len(failed)} clips; open {args.out / '*' / 'sheet.jpg'}")
    for outcome in failed:
        print(f"pst: error: {printable(outcome.name)}: {printable(outcome.error)}", file=sys.stderr)
    return 1 if failed else 0
