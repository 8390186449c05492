"""An exported model on a machine without PyTorch: ONNX Runtime, NumPy and Pillow are all it needs.

Nothing of `pst` is imported:

    pip install onnxruntime numpy pillow
    python run_without_torch.py shapes.onnx image.png --out mask.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import onnxruntime
from PIL import Image

COLOURS = np.array([(0, 0, 0), (255, 225, 60), (60, 230, 130)], np.uint8)  # ground, disc, square


def main(argv: Sequence[str] | None = None) -> np.ndarray:
    """Run the file on one image and write the classes in colours; the classes (H, W)."""
    parser = argparse.ArgumentParser(description="Run an ONNX segmenter without PyTorch.")
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--out", default="mask.png")
    args = parser.parse_args(argv)

    with Image.open(args.image) as image:
        pixels = np.array(image.convert("RGB"))
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    batch = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
    logits = np.asarray(session.run(None, {"image": batch})[0])  # (1, classes, H, W)
    classes = logits[0].argmax(0)
    Image.fromarray(np.hstack([pixels, COLOURS[classes]])).save(args.out)
    print(f"Written: {args.out}")
    return classes


if __name__ == "__main__":
    main()
