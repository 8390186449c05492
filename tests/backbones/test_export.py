"""Bodies as files for other runtimes, run at other sizes than they were written at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("timm")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

from pst.backbones import build_body  # noqa: E402
from pst.export import to_onnx  # noqa: E402

VIT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
NETWORKS: dict[str, Any] = {
    "vit": lambda: transformers.ViTConfig(**VIT, image_size=32),
    "dinov2": lambda: transformers.Dinov2Config(**VIT, patch_size=14, image_size=28),
    "dinov3": lambda: transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4),
    "resnet": lambda: transformers.ResNetConfig(
        embedding_size=8, layer_type="basic", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]
    ),
}


class Maps(nn.Module):
    """A body with its maps in a tuple."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body: Any = body

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body(x).values())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_dynamic_onnx_file_gives_the_bodys_maps_at_other_sizes(name, tmp_path):
    torch.manual_seed(0)
    options: dict[str, Any] = {} if name == "resnet" else {"width": 16}
    maps = Maps(build_body(NETWORKS[name](), **options)).eval()
    path = to_onnx(maps, (torch.rand(1, 3, 64, 96),), tmp_path / "body.onnx", dynamic=True)
    session = onnxruntime.InferenceSession(str(path))
    for size in ((64, 96), (128, 64), (70, 101)):
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            wanted = maps(images)
        for got, want in zip(session.run(None, {"input0": images.numpy()}), wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-3, atol=1e-4)
