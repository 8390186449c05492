"""`pst convert`: a checkpoint from one format to another, executing nothing in it."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from pst.cli._common import Verbs, add_trust, add_verb, require


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "convert",
        help="checkpoints: the authors' .pt, ours and .safetensors",
        examples=["convert authors.pt ours.pt", "convert best.pt best.safetensors"],
        description="Convert a checkpoint: the PST authors' .pt, a .pt of yours or a .safetensors, to a .pt that YOLO "
        "opens or to .safetensors. Nothing in it is executed; what names more than tensors and layers is refused.",
    )
    parser.add_argument("src", type=Path, metavar="SRC", help="a .pt or .safetensors file")
    parser.add_argument("dst", type=Path, metavar="DST", help="likewise; replaced when it exists")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert and print what it was."""
    require("ultralytics", "ultralytics")
    from pst.integrations.ultralytics import convert_checkpoint

    checkpoint = convert_checkpoint(args.src, args.dst, trust=args.trust)
    count = sum(t.numel() for t in checkpoint.state.values())
    print(f"model        {checkpoint.model} ({checkpoint.task}), {count:,} numbers")
    print(f"classes      {len(checkpoint.names)}: {_shorten(list(checkpoint.names.values()))}")
    print(f"written by   {checkpoint.source}")
    print(f"Written: {args.dst}")
    if args.dst.suffix == ".safetensors":  # pst val takes those of pst train alone
        print(f"Next: pst export --model {shlex.quote(str(args.dst))}")
    else:
        print(f"Next: pst val --model {shlex.quote(str(args.dst))} --data …")
    return 0


def _shorten(names: list[str], most: int = 8) -> str:
    shown = ("".join(c if c.isprintable() else "?" for c in name) for name in names[:most])  # it is a stranger's text
    return ", ".join(shown) + (", …" if len(names) > most else "")
