"""`pst export`: a trained model as a file for another runtime, run and compared before it is reported."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pst.cli._common import Verbs, add_trust, add_verb, check_suffix, host_errors, in_flags, natural, positive, require
from pst.io.files import check_folder

if TYPE_CHECKING:
    from pst.integrations.ultralytics.export import Exported

_FORMATS = ("onnx", "openvino", "torchscript", "pt2", "ncnn", "litert", "coreml", "engine")
_RUN_BY_HOST = ("onnx", "openvino", "torchscript", "ncnn")  # formats that Ultralytics runs as it runs a checkpoint
_NOT_RUN = {"coreml": "Core ML runs on macOS only", "engine": "its own runtime was not started"}


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "export",
        help="ONNX, OpenVINO, TorchScript, pt2, ncnn, LiteRT, Core ML, TensorRT; run and compared",
        examples=[
            "export --model best.pt --format openvino --topk 0",
            "export --model best.pt --max-tokens 100 --dynamic --format pt2",
        ],
        description="Export a trained model with a fixed k and fusion, then run the file on other images than it was "
        "made with, at other sizes too with --dynamic, and print how far it is from the model.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="PT", help="checkpoint, e.g. best.pt")
    parser.add_argument("--format", choices=_FORMATS, default="onnx", help="of the file (%(default)s)")
    parser.add_argument("--topk", type=natural, metavar="K", help="k, fixed in the file (the model's own)")
    parser.add_argument("--fusion", choices=("gate", "refine"), help="fixed as well (the model's own)")
    parser.add_argument(
        "--max-tokens", type=positive, metavar="N", help="average the coarse tokens to at most N (the model's own)"
    )
    parser.add_argument("--imgsz", type=positive, nargs="+", metavar="PX", help="side, or height and width (training)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="images in a batch (%(default)s)")
    parser.add_argument("--dynamic", action="store_true", help="leave batch, height and width open")
    parser.add_argument("--half", action="store_true", help="FP16")
    parser.add_argument("--int8", action="store_true", help="convolutions in INT8; needs --data")
    parser.add_argument("--data", metavar="YAML", help="dataset whose validation images INT8 is calibrated with")
    parser.add_argument("--opset", type=positive, metavar="N", help="of ONNX (17)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (that of the checkpoint)")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, run, compare, print."""
    require("ultralytics", "ultralytics,export")
    from pst.integrations.ultralytics import export as yolo

    if args.imgsz is not None and len(args.imgsz) > 2:
        raise ValueError(f"--imgsz takes one side, or height and width, got {len(args.imgsz)} numbers")
    if args.data is not None and not args.int8:
        raise ValueError(f"--data is for --int8, to calibrate with: add --int8, or leave --data {args.data} out")
    check_suffix(args.model)
    if args.out is not None:
        check_folder(args.out)
    imgsz = None if args.imgsz is None else (args.imgsz[0], args.imgsz[-1])
    names = ("topk", "fusion", "max_tokens", "batch", "dynamic", "half", "int8", "data", "opset", "out")
    options = {"imgsz": imgsz, **{name: getattr(args, name) for name in names}}
    with in_flags(list(options)), host_errors(f"export {args.model} to {args.format}"):
        exported = yolo.export(args.model, args.format, **options, trust=args.trust)
    _print(exported)
    if args.format in _NOT_RUN:
        print(f"not run      {_NOT_RUN[args.format]}")
    else:
        gap = yolo.verify(args.model, exported, trust=args.trust)
        numbers = f"max {gap.max:.2g}, mean {gap.mean:.2g} from the model's outputs of up to {gap.scale:.4g}"
        print(f"compared     {f'{gap.mean:.2%} of the pixels have another class' if exported.class_map else numbers}")
    print(f"Written: {exported.path}")
    if args.format in _RUN_BY_HOST:
        print(f"Next: pst yolo predict model={shlex.quote(str(exported.path))} source=IMAGE")
    return 0


def _print(exported: Exported) -> None:
    fusion = "coarse attention alone" if exported.topk == 0 else f"fusion {exported.fusion}"
    print(f"k            {exported.topk}, {fusion}")
    for layer, tokens in exported.clamped.items():
        print(f"             {layer} has {tokens} coarse tokens at this size: its k is {tokens}")
    if exported.max_tokens is not None:
        print(f"tokens       {exported.max_tokens} at most, in layers with more coarse tokens: {_averaged(exported)}")
    size = f"batch {exported.batch}, {exported.size[0]}×{exported.size[1]} px"
    size += "" if exported.channels == 3 else f", {exported.channels} channels"
    print(f"input        {size}{', others too' if exported.dynamic else ''}")
    files = [exported.path] if exported.path.is_file() else [p for p in exported.path.rglob("*") if p.is_file()]
    print(f"size         {sum(file.stat().st_size for file in files) / 1e6:.2f} MB")


def _averaged(exported: Exported) -> str:
    return ", ".join(f"{layer} ({tokens})" for layer, tokens in exported.averaged.items()) or "none at this size"
