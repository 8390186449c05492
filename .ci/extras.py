"""Install the wheel in dist/ with each extra alone, in an environment of its own, and use what it is for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "build" / "extra"
LAYER = """
import torch, pst
layer, maps = pst.PST(64, 128, 128).eval(), (torch.rand(1, 64, 20, 20), torch.rand(1, 128, 10, 10))
assert layer(*maps).shape == (1, 128, 20, 20)
"""
USES = {
    "ultralytics": """
from pst.integrations.ultralytics import YOLO
YOLO("yolo11n-pst.yaml").model.eval()(torch.rand(1, 3, 64, 64))
""",
    "timm": """
import timm, pst.integrations.timm
timm.create_model("pst_resnet18")(torch.rand(2, 3, 64, 64))
""",
    "hub": """
from pst.io.hub import PSTHubMixin
class Model(torch.nn.Module, PSTHubMixin):
    def __init__(self, channels: int = 64):
        super().__init__()
        self.layer = pst.PST(channels, 128, 128)
Model(64).save_pretrained("saved")
Model.from_pretrained("saved")
""",
    "torchvision": """
from pst.integrations.torchvision import fcos
fcos("resnet18", library="torchvision", num_classes=3).eval()([torch.rand(3, 64, 64)])
""",
    "transformers": """
from transformers import DFineConfig, DFineForObjectDetection
from pst.integrations.transformers import add_pst
model = add_pst(DFineForObjectDetection(DFineConfig(decoder_layers=2))).eval()
assert model(torch.rand(1, 3, 64, 64)).pred_boxes.shape == (1, 300, 4)
""",
    "export": """
from pst.export import load, to_onnx
to_onnx(layer, maps, "layer.onnx")
torch.testing.assert_close(load("layer.onnx")(*maps), layer(*maps), rtol=1e-3, atol=1e-3)
""",
    "viz": "import pst.visualize",
    "demo": "import pst.demo",
    "train": "import pst.train",
    "propagate": """
from pst.propagate import Propagator
frame = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8)
propagator = Propagator(size=64)
propagator.add(frame, torch.ones(48, 64, dtype=torch.uint8))
assert (propagator.step(frame) == 1).all()
""",
    "bench": "import effdet, filelock, matplotlib, ultralytics",
}


def main() -> None:
    """Try the extras that are named, or all; stop at the first that does not do."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    for extra in sys.argv[1:] or USES:
        print(f"== {extra}", flush=True)
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        python = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[{extra}]"], check=True)
        subprocess.run([python, "-c", LAYER + USES[extra]], check=True, cwd=ENVIRONMENT)
        subprocess.run([python, "-m", "pst", "info"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(ENVIRONMENT)


if __name__ == "__main__":
    main()
