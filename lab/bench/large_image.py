"""One image of 4096 × 4096 pixels through a segmenter with bounded tokens: `python -m lab.bench.large_image`."""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from pst.integrations.segmentation import PSTSegmenter
from pst.io.files import write_text
from pst.profile.environment import environment
from pst.profile.memory import peak_memory

RESULT = Path(__file__).resolve().parents[1] / "results" / "large-image.json"


def main() -> int:
    """Measure each bound in turn, print and write; the process has the memory of the largest so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096, help="pixels (%(default)s)")
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[100, 400], metavar="N", help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULT, help="(%(default)s)")
    args = parser.parse_args()
    rows = [run(args.side, bound) for bound in args.max_tokens]
    for row in rows:
        print(f"{row['side']} px, {row['max_tokens']} tokens: {row['seconds']:.1f} s, {row['peak_memory_mb']:.0f} MB")
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_text(args.out, json.dumps({"created": created, **environment(), "seed": 0, "rows": rows}, indent=1) + "\n")
    return 0


def run(side: int, max_tokens: int) -> dict[str, Any]:
    """`PSTSegmenter("resnet18")` of 11 classes with random weights on one random image; the whole process's memory."""
    torch.manual_seed(0)
    model = PSTSegmenter("resnet18", classes=11, neck_options={"max_tokens": max_tokens}).eval()
    image = torch.randn(1, 3, side, side)
    model.predict(image[..., :256, :256])
    with peak_memory("cpu") as peak:
        began = time.perf_counter()
        out = model.predict(image)
        seconds = time.perf_counter() - began
    assert isinstance(out, torch.Tensor)
    assert out.shape == (1, 11, side, side)
    assert bool(out.isfinite().all())
    return {"side": side, "max_tokens": max_tokens, "seconds": seconds, "peak_memory_mb": peak[0]}


if __name__ == "__main__":
    raise SystemExit(main())
