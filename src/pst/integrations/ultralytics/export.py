"""Every format of Ultralytics' for a model with PST layers, and ``.pt2``: set k and fusion, write, run, compare."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pst.control import attention_layers, set_options
from pst.control.layers import eval_mode
from pst.export.limits import check_request
from pst.export.onnx_file import TRACED_OPSET, check_opset
from pst.functional.grid import Size, bounded_size
from pst.integrations.ultralytics.export_check import agreement, eager, images, runner, verify
from pst.integrations.ultralytics.export_write import (
    LEAST_STRIDE,
    Exported,
    open_model,
    place,
    write_host,
    write_program,
)
from pst.integrations.ultralytics.yolo import YOLO, trained_size
from pst.modules.settings import Settings

if TYPE_CHECKING:
    from pst.functional.attention import Fusion

__all__ = ["Exported", "agreement", "eager", "export", "images", "runner", "verify"]

_LOG = logging.getLogger(__name__)


def export(
    model: str | Path | Any,
    format: str = "onnx",
    *,
    topk: int | None = None,
    fusion: Fusion | None = None,
    max_tokens: int | None = None,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    dynamic: bool = False,
    half: bool = False,
    int8: bool = False,
    data: str | Path | None = None,
    opset: int | None = None,
    out: str | Path | None = None,
    trust: bool = False,
) -> Exported:
    """Export a model with PST layers through Ultralytics, or to ``.pt2`` through ``torch.export``.

    Nothing is installed on the way, and the model that was passed is not changed. k, fusion and the bound stand in the
    file's metadata as ``pst_topk``, ``pst_fusion`` and, where there is one, ``pst_max_tokens``.

    Args:
        model: Checkpoint, or a `pst.integrations.ultralytics.YOLO` object.
        format: A key of `pst.export.FORMATS`.
        topk: k; None keeps the model's own.
        fusion: "gate" or "refine"; None keeps the model's own.
        max_tokens: Most coarse tokens that queries attend to; None keeps the model's own. Of the formats with
            ``dynamic`` only ``.pt2`` can have it.
        imgsz: Side in pixels, or (height, width); None takes that of the training. Raised to a multiple of the model's
            stride, 32 for most.
        batch: Images in a batch; with ``dynamic`` only that of the example (``.pt2`` of a dynamic size keeps it).
        dynamic: Leave batch, height and width open.
        half: FP16; the scores that top-k ranks stay float32 in ONNX.
        int8: Convolutions in INT8; needs ``data``.
        data: Dataset YAML whose validation images INT8 is calibrated with.
        opset: Of ONNX; None means 17.
        out: Folder to write to, made when missing; None means that of the checkpoint.
        trust: Do as Ultralytics does, which runs whatever code the model's file holds.

    Raises:
        FileNotFoundError: No such checkpoint.
        ImportError: A package that the format needs is missing.
        ValueError: The format cannot do what was asked, see `pst.export.check_request`, or k and size do not fit.
    """
    yolo = open_model(model, YOLO, trust=trust)
    asked = {"topk": topk, "fusion": fusion, "max_tokens": max_tokens}
    set_options(yolo, **{name: value for name, value in asked.items() if value is not None})
    layers = attention_layers(yolo.model)
    settings = {name: layer.settings for name, layer in layers.items()}
    topk = max(own.topk for own in settings.values())
    max_tokens = max((own.max_tokens for own in settings.values() if own.max_tokens is not None), default=None)
    check_request(
        format, topk=topk, max_tokens=max_tokens, batch=batch, dynamic=dynamic, half=half, int8=int8, data=data
    )
    _check_options(format, opset, int8)
    channels, stride = yolo.model.yaml.get("channels", 3), max(LEAST_STRIDE, int(max(yolo.model.stride)))
    size = _size(yolo, imgsz, stride)
    maps = _coarse_sizes(yolo.model, channels, size)
    found = {name: height * width for name, (height, width) in maps.items()}
    clamped = {name: tokens for name, tokens in found.items() if tokens < topk}
    averaged = {name: n for name, n in found.items() if (bound := settings[name].max_tokens) is not None and n > bound}
    if clamped and dynamic:
        raise ValueError(
            f"at {size[0]}×{size[1]} a coarse map has {min(clamped.values())} tokens, fewer than topk={topk}, and a "
            "dynamic file would keep that number at every size: pass a larger imgsz"
        )
    if dynamic and max_tokens is not None and len(averaged) < len(found):
        raise ValueError(
            f"at {size[0]}×{size[1]} a coarse map has {min(found.values())} tokens, no more than its max_tokens, and a "
            "dynamic file would leave it whole at every size: pass a larger imgsz or a smaller max_tokens"
        )
    if format == "ncnn":
        _check_windows({name: maps[name] for name in averaged}, settings)
    fused = "none" if topk == 0 else next(iter(layers.values())).fusion
    metadata = {"pst_topk": topk, "pst_fusion": fused}
    metadata |= {} if max_tokens is None else {"pst_max_tokens": max_tokens}
    place(yolo, out)
    if format == "pt2":
        shape = (batch, channels, *size)
        path = write_program(yolo.model, shape, stride, dynamic=dynamic, half=half, metadata=metadata)
    else:
        options = {"imgsz": list(size), "batch": batch, "data": None if data is None else str(data)}
        path = write_host(yolo, format, metadata, options, dynamic=dynamic, half=half, int8=int8, opset=opset)
    return Exported(
        path, format, topk, fused, clamped, size, batch, dynamic, channels, str(yolo.task), stride,
        max_tokens, averaged, settings,
    )  # fmt: skip


def _check_options(format: str, opset: int | None, int8: bool) -> None:
    if format == "engine" and not torch.cuda.is_available():
        raise ValueError(
            "a TensorRT engine is built on the NVIDIA GPU that will run it, and none is here: export with "
            "--format onnx and build there, with trtexec --onnx=MODEL.onnx --saveEngine=MODEL.engine"
        )
    if opset is None:
        return
    if format not in ("onnx", "engine"):
        raise ValueError(f"opset is a number of ONNX's, and {format} has none: leave opset out")
    check_opset(opset)
    if opset > TRACED_OPSET and (int8 or format == "engine"):
        raise ValueError(f"opset {opset} is too new for INT8 and TensorRT here: {TRACED_OPSET} at most")


def _size(yolo: Any, imgsz: int | Sequence[int] | None, stride: int) -> tuple[int, int]:
    asked: Any = trained_size(yolo) if imgsz is None else imgsz
    sides = [asked, asked] if isinstance(asked, int) else list(asked)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"imgsz must be one side or (height, width) in pixels, got {asked!r}")
    height, width = (math.ceil(side / stride) * stride for side in sides)
    if [height, width] != sides:
        _LOG.warning(
            "imgsz=%s is raised to %d×%d pixels, multiples of the model's stride %d", asked, height, width, stride
        )
    return height, width


def _check_windows(maps: Mapping[str, Size], settings: Mapping[str, Settings]) -> None:
    """Refuse averages over windows of unequal sides, which take an operator that ncnn lacks."""
    for name, (height, width) in maps.items():
        pooled = bounded_size((height, width), settings[name].max_tokens)
        if pooled is not None and (height % pooled[0] or width % pooled[1]):
            raise ValueError(
                f"ncnn averages over windows of one size alone, and the {height}×{width} coarse tokens of {name} would "
                f"become {pooled[0]}×{pooled[1]}: choose a max_tokens or an imgsz so that one divides the other"
            )


def _coarse_sizes(model: nn.Module, channels: int, size: tuple[int, int]) -> dict[str, Size]:
    """Attention layer -> (height, width) of its coarse map at an image size, found by running it."""
    sizes: dict[str, Size] = {}
    layers = attention_layers(model)

    def watch(name: str) -> Any:
        return lambda _, args: sizes.__setitem__(name, (args[1].shape[2], args[1].shape[3]))

    with ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_pre_hook(watch(name))
            stack.callback(handle.remove)
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.no_grad())
        model(torch.zeros(1, channels, *size))
    return sizes
