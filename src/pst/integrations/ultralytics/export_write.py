"""Writing files of a YOLO model: through Ultralytics' exporter with our INT8, FP16 and metadata, or as a program."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import head as host_heads

from pst.export.onnx_file import DEFAULT_OPSET, TRACED_OPSET, finish, quiet_exporter
from pst.export.precision import onnx_to_float16, quantize_onnx, quantize_openvino
from pst.export.program import to_pt2
from pst.functional.grid import open_sizes
from pst.integrations.ultralytics.yolo import check_pst
from pst.io.files import check_file, check_parent, explained
from pst.modules.settings import Settings

LEAST_STRIDE = 32  # of every model of Ultralytics' with a coarsest level P5, and for classifiers, which give none
_CLASS_MAPS = ("onnx", "openvino")  # whose files of a semantic model hold the class of each pixel in place of scores

# heads that give maps; the first versions of Ultralytics 8.4 lack them
_MAPS = tuple(getattr(host_heads, name) for name in ("SemanticSegment", "Depth") if hasattr(host_heads, name))


class Exported(NamedTuple):
    """What `export` wrote.

    Attributes:
        path: The file or folder.
        format: A key of `pst.export.FORMATS`.
        topk: k, as asked.
        fusion: "gate" or "refine"; "none" for k = 0.
        clamped: Attention layer -> its number of coarse tokens, for layers that have fewer than k: that is their k.
        size: (height, width) in pixels that it was made with, the only one unless dynamic.
        batch: Likewise.
        dynamic: Whether others can be run.
        channels: Of the images.
        task: As Ultralytics calls it.
        stride: The sides of images are multiples of this many pixels.
        max_tokens: Most coarse tokens that queries attend to; None means no bound.
        averaged: Attention layer -> its number of coarse tokens, for layers that have more than their bound.
        settings: Attention layer -> what it was exported with.
    """

    path: Path
    format: str
    topk: int
    fusion: str
    clamped: dict[str, int]
    size: tuple[int, int]
    batch: int
    dynamic: bool
    channels: int = 3
    task: str = "detect"
    stride: int = 32
    max_tokens: int | None = None
    averaged: Mapping[str, int] = MappingProxyType({})
    settings: Mapping[str, Settings] = MappingProxyType({})

    @property
    def class_map(self) -> bool:
        """Whether the file gives the class of each pixel, (B, H, W), where the model gives scores."""
        return self.task == "semantic" and self.format in _CLASS_MAPS


def open_model(model: Any, kind: Any, *, trust: bool = False) -> Any:
    """A YOLO object that may be changed: the checkpoint's, or a copy of the one passed."""
    if not isinstance(model, (str, Path)):
        if not isinstance(getattr(model, "model", None), nn.Module):
            raise TypeError(f"expected a checkpoint or a YOLO object of one, got {type(model).__name__}")
        twin = kind.__new__(type(model))
        twin.__dict__ = dict(model.__dict__)
        twin._modules = {**model._modules, "model": copy.deepcopy(model.model)}
        twin.callbacks = copy.copy(model.callbacks)
        twin.predictor = None
        return twin
    check_file(model, "checkpoint", "pass the path of a trained model, e.g. runs/train/weights/best.pt")
    opened = kind(model, trust=trust)
    if not isinstance(opened.model, nn.Module):
        raise ValueError(f"{model} is not a checkpoint but a file of an export: pass the .pt that it was made of")  # noqa: TRY004
    check_pst(opened, model)
    return opened


def place(yolo: Any, out: str | Path | None) -> None:
    """Tell the host's exporter where to write: beside ``pt_path``, under its name."""
    known = getattr(yolo.model, "pt_path", None) or yolo.ckpt_path or yolo.model.yaml.get("yaml_file", "model.pt")
    source = Path(known)
    folder = source.parent if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    yolo.model.pt_path = str(folder / f"{source.stem}.pt")


def write_program(
    model: nn.Module, shape: tuple[int, ...], stride: int, *, dynamic: bool, half: bool, metadata: dict[str, Any]
) -> Path:
    """The ``.pt2`` file for images of a shape: the raw outputs that the host's own exports have."""
    module = raw_model(model, "pt2")
    for head in module.modules():
        if hasattr(head, "export"):
            vars(head).update(export=True, format="pt2", dynamic=dynamic, shape=None)
    module = module.half() if half else module
    image = torch.rand(shape, dtype=torch.float16 if half else torch.float32)
    shapes = None
    if dynamic:
        height, width = (stride * torch.export.Dim(name, min=2, max=256) for name in ("rows", "columns"))
        shapes = ({2: height, 3: width},)
    path = check_parent(Path(str(getattr(model, "pt_path"))).with_suffix(".pt2"))  # noqa: B009  # untyped
    with warnings.catch_warnings():  # the host's head keeps its anchors in plain attributes, made anew in each call
        warnings.filterwarnings("ignore", "The tensor attributes", UserWarning)
        return to_pt2(module, (image,), path, dynamic=shapes or False, metadata=metadata)


def write_host(
    yolo: Any, format: str, metadata: dict[str, Any], options: dict[str, Any], *,
    dynamic: bool, half: bool, int8: bool, opset: int | None,
) -> Path:  # fmt: skip
    """Ultralytics' own export, with our metadata and our FP16 and INT8 for ONNX and OpenVINO."""
    own_half = half and format == "onnx"
    if format in ("onnx", "engine"):
        options["opset"] = min(DEFAULT_OPSET if opset is None else opset, TRACED_OPSET)
        options["simplify"] = True
    if dynamic:
        options["dynamic"] = True
    options["quantize"] = 8 if int8 else 16 if half and not own_half else None
    yolo.callbacks["on_export_start"] = [
        *yolo.callbacks.get("on_export_start", ()), lambda exporter: exporter.metadata.update(metadata)
    ]  # fmt: skip
    sizes = open_sizes() if dynamic else nullcontext()
    with quiet_exporter(), sizes, _own_quantisation(), _nothing_installed():
        name = yolo.model.yaml.get("yaml_file", "this model")
        what = f"{format} could not be written of {name} ({yolo.task}) at {options['imgsz']}"
        with explained(what, passing=(ImportError, OSError, MemoryError)):  # some show a page of their graph
            path = Path(yolo.export(format=format, **options, verbose=False))
    if own_half:
        onnx_to_float16(path, path)
    if format == "onnx" and opset is not None:
        finish(path, opset=opset)
    return path


@contextmanager
def _own_quantisation() -> Iterator[None]:
    """Let the host quantise through `pst.export`, where softmax and gate stay float."""
    from ultralytics.utils.export import onnx as host_onnx
    from ultralytics.utils.export import openvino as host_openvino

    convert = host_openvino.torch2openvino

    def onnx_int8_quantize(onnx_file: Any, output_file: Any, dataset: Any, transform_fn: Any, **_: Any) -> str:
        return str(quantize_onnx(onnx_file, output_file, (transform_fn(batch) for batch in dataset)))

    def torch2openvino(*args: Any, quantize: Any = None, calibration_dataset: Any = None, **options: Any) -> Any:
        model = convert(*args, quantize=None if quantize == 8 else quantize, **options)
        return quantize_openvino(model, calibration_dataset) if quantize == 8 else model

    ours = _replaced(host_onnx, "onnx_int8_quantize", onnx_int8_quantize)
    with ours, _replaced(host_openvino, "torch2openvino", torch2openvino):
        yield


@contextmanager
def _nothing_installed() -> Iterator[None]:
    """The host installs packages that it misses, or finds too new, into the running environment: not from here."""
    from ultralytics.utils import checks

    with _replaced(checks, "AUTOINSTALL", False):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def raw_model(model: nn.Module, format: str) -> nn.Module:
    """A fused copy in eval mode whose outputs are those of the host's exports to a format.

    There is no selection of final boxes inside. Maps of classes and of depth have the size of the image, and for some
    formats the host writes the class of each pixel in place of scores.
    """
    module: Any = copy.deepcopy(model).eval().float()
    if hasattr(module, "end2end"):
        module.end2end = False
    for head in module.modules():
        if isinstance(head, _MAPS):
            head.export, head.format = True, format
    return module.fuse(verbose=False)


def first_tensor(out: Any) -> Tensor:
    """The first tensor of a model's nested outputs."""
    return out if isinstance(out, Tensor) else first_tensor(out[0])
