"""Bodies as files for other runtimes, run at other sizes than they were written at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
    check(maps, path, ((64, 96), (128, 64), (70, 101)))


def check(maps: Maps, path: Path, sizes: Sequence[tuple[int, int]], batch: int = 2) -> None:
    """The file gives what the body gives."""
    session = onnxruntime.InferenceSession(str(path))
    for size in sizes:
        images = torch.rand(batch, 3, *size)
        with torch.no_grad():
            wanted = maps(images)
        for got, want in zip(session.run(None, {"input0": images.numpy()}), wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_transformer_of_timm_that_rotates_is_written_for_any_size(dynamic, tmp_path):
    sizes = ((64, 96), (128, 64), (70, 101)) if dynamic else ((64, 96),)
    check_timm("vit_small_patch16_dinov3", tmp_path, sizes, dynamic=dynamic, depth=1)


def test_a_transformer_of_timm_with_learned_positions_is_written_for_the_size_that_it_was_built_for(tmp_path):
    check_timm("test_vit", tmp_path, ((64, 96),), img_size=(64, 96))


def check_timm(name: str, folder: Path, sizes: Sequence[tuple[int, int]], *, dynamic: bool = False, **options: Any):
    torch.manual_seed(0)
    maps = Maps(build_body(name, width=16, **options)).eval()
    example = (torch.rand(1, 3, *sizes[0]),)
    check(maps, to_onnx(maps, example, folder / "body.onnx", dynamic=dynamic), sizes, 1)
