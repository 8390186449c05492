"""Every format of Ultralytics' for a model with PST layers, and ``.pt2``: set k and fusion, write, run, compare."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pst.control import attention_layers, set_fusion, set_topk
from pst.export.compare import Difference, compare
from pst.export.onnx_file import DEFAULT_OPSET, TRACED_OPSET, check_opset, finish, quiet_exporter
from pst.export.precision import onnx_to_float16, quantize_onnx, quantize_openvino
from pst.export.program import check_folder, eval_mode, to_pt2
from pst.export.rules import check_request
from pst.export.runtime import Run, load

if TYPE_CHECKING:
    from pst.functional.attention import Fusion

_STRIDE = 32  # of every model of Ultralytics' with a coarsest level P5


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
    """

    path: Path
    format: str
    topk: int
    fusion: str
    clamped: dict[str, int]
    size: tuple[int, int]
    batch: int
    dynamic: bool


def export(
    model: str | Path | Any,
    format: str = "onnx",
    *,
    topk: int | None = None,
    fusion: Fusion | None = None,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    dynamic: bool = False,
    half: bool = False,
    int8: bool = False,
    data: str | Path | None = None,
    opset: int | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Export a model with PST layers through Ultralytics, or to ``.pt2`` through ``torch.export``.

    Nothing is installed on the way, and the model that was passed is not changed. k and fusion stand in the file's
    metadata as ``pst_topk`` and ``pst_fusion``.

    Args:
        model: Checkpoint, or a `pst.integrations.ultralytics.YOLO` object.
        format: A key of `pst.export.FORMATS`.
        topk: k; None keeps the model's own.
        fusion: "gate" or "refine"; None keeps the model's own.
        imgsz: Side in pixels, or (height, width); None takes that of the training. Raised to a multiple of 32.
        batch: Images in a batch; with ``dynamic`` only that of the example (``.pt2`` of a dynamic size keeps it).
        dynamic: Leave batch, height and width open.
        half: FP16; the scores that top-k ranks stay float32 in ONNX.
        int8: Convolutions in INT8; needs ``data``.
        data: Dataset YAML whose validation images INT8 is calibrated with.
        opset: Of ONNX; None means 17.
        out: Folder to write to, made when missing; None means that of the checkpoint.

    Raises:
        FileNotFoundError: No such checkpoint.
        ImportError: A package that the format needs is missing.
        ValueError: The format cannot do what was asked, see `pst.export.check_request`, or k and size do not fit.
    """
    from pst.integrations.ultralytics import YOLO

    yolo = _open(model, YOLO)
    if fusion is not None:
        set_fusion(yolo, fusion)
    if topk is not None:
        set_topk(yolo, topk)
    layers = attention_layers(yolo.model)
    topk = max(layer.topk for layer in layers.values())
    check_request(format, topk=topk, batch=batch, dynamic=dynamic, half=half, int8=int8, data=data)
    _check_options(format, opset, int8)
    size = _size(yolo, imgsz)
    clamped = {name: tokens for name, tokens in _coarse_tokens(yolo.model, size).items() if tokens < topk}
    if clamped and dynamic:
        raise ValueError(
            f"at {size[0]}×{size[1]} a coarse map has {min(clamped.values())} tokens, fewer than topk={topk}, and a "
            "dynamic file would keep that number at every size: pass a larger imgsz"
        )
    fused = "none" if topk == 0 else next(iter(layers.values())).fusion
    metadata = {"pst_topk": topk, "pst_fusion": fused}
    _place(yolo, out)
    if format == "pt2":
        path = _program(yolo.model, size, batch, dynamic=dynamic, half=half, metadata=metadata)
    else:
        options = {"imgsz": list(size), "batch": batch, "data": None if data is None else str(data)}
        path = _host(yolo, format, metadata, options, dynamic=dynamic, half=half, int8=int8, opset=opset)
    return Exported(path, format, topk, fused, clamped, size, batch, dynamic)


def eager(model: str | Path | Any, exported: Exported) -> Run:
    """The model that ``exported`` was made of, with its k and fusion, as a function of a batch of images."""
    from pst.integrations.ultralytics import YOLO

    yolo = _open(model, YOLO)
    set_topk(yolo, exported.topk)
    if exported.fusion != "none":
        set_fusion(yolo, "gate" if exported.fusion == "gate" else "refine")
    module = _raw(yolo.model)
    return lambda images: _first(module(images))


def runner(exported: Exported, *, threads: int | None = None) -> Run:
    """`pst.export.load` of the file, with boxes in pixels."""
    run = load(exported.path, threads=threads)
    if exported.format != "litert" or _is_classifier(exported):
        return run
    height, width = exported.size  # Ultralytics writes boxes for LiteRT as a share of the image
    pixels = torch.tensor([width, height, width, height]).view(1, 4, 1)

    def in_pixels(images: Tensor) -> Tensor:
        out = run(images)
        return torch.cat([out[:, :4] * pixels, out[:, 4:]], 1)

    return in_pixels


def images(exported: Exported, count: int = 2, seed: int = 0) -> list[tuple[Tensor]]:
    """Random batches that the export has not seen: of its size, and, where dynamic, of other sizes and batches too."""
    generator = torch.Generator().manual_seed(seed)
    height, width = exported.size
    shapes = [(exported.batch, 3, height, width)] * count
    if exported.dynamic:
        other = exported.batch if exported.format == "pt2" else exported.batch + 1
        shapes += [(other, 3, height + _STRIDE, width + 2 * _STRIDE), (exported.batch, 3, height, width + _STRIDE)]
    return [(torch.rand(shape, generator=generator),) for shape in shapes]


def verify(model: str | Path | Any, exported: Exported) -> Difference:
    """Run the file on `images` and compare with the model.

    Raises:
        ValueError: It cannot be run here, or its output is of another shape or not finite.
    """
    return compare(eager(model, exported), runner(exported), images(exported))


def agreement(want: Tensor, got: Tensor, *, iou: float = 0.9, conf: float = 0.25) -> tuple[int, int]:
    """How many detections of ``want`` ``got`` has too, of the same class and at IoU ≥ ``iou``; and how many there are.

    Args:
        want: Raw output of a detector, (B, 4 + classes, anchors), boxes as (x, y, w, h).
        got: The same from the exported file.
        iou: Overlap that counts as the same box.
        conf: Least score of a detection.

    Returns:
        (found, detections), a detection of ``got`` that ``want`` lacks counting among the detections.
    """
    from torchvision.ops import box_iou
    from ultralytics.utils.nms import non_max_suppression

    found = total = 0
    pairs = zip(*(non_max_suppression(t.clone(), conf_thres=conf, iou_thres=0.7) for t in (want, got)), strict=True)
    for a, b in pairs:
        same = (box_iou(a[:, :4], b[:, :4]) >= iou) & (a[:, 5, None] == b[None, :, 5])
        matched = min(int(same.any(1).sum()), int(same.any(0).sum())) if same.numel() else 0
        found += matched
        total += len(a) + len(b) - matched
    return found, total


def _open(model: Any, kind: Any) -> Any:
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
    if not Path(model).is_file():
        raise FileNotFoundError(f"no checkpoint at {model}: pass the path of a trained model, e.g. best.pt")
    return kind(model)


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


def _size(yolo: Any, imgsz: int | Sequence[int] | None) -> tuple[int, int]:
    args = yolo.model.args if isinstance(yolo.model.args, dict) else vars(yolo.model.args)
    imgsz = args.get("imgsz", 640) if imgsz is None else imgsz
    sides = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"imgsz must be one side or (height, width) in pixels, got {imgsz!r}")
    height, width = (math.ceil(side / _STRIDE) * _STRIDE for side in sides)
    return height, width


def _coarse_tokens(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Attention layer -> tokens of its coarse map at an image size, found by running it."""
    tokens: dict[str, int] = {}
    layers = attention_layers(model)

    def watch(name: str) -> Any:
        return lambda _, args: tokens.__setitem__(name, args[1].shape[2] * args[1].shape[3])

    with ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_pre_hook(watch(name))
            stack.callback(handle.remove)
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.no_grad())
        model(torch.zeros(1, 3, *size))
    return tokens


def _place(yolo: Any, out: str | Path | None) -> None:
    """Tell the host's exporter where to write: beside ``pt_path``, under its name."""
    known = getattr(yolo.model, "pt_path", None) or yolo.ckpt_path or yolo.model.yaml.get("yaml_file", "model.pt")
    source = Path(known)
    folder = source.parent if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    yolo.model.pt_path = str(folder / f"{source.stem}.pt")


def _program(
    model: nn.Module, size: tuple[int, int], batch: int, *, dynamic: bool, half: bool, metadata: dict[str, Any]
) -> Path:
    """The ``.pt2`` file: the raw outputs that the host's own exports have."""
    module = _raw(model)
    for head in module.modules():
        if hasattr(head, "export"):
            vars(head).update(export=True, format="pt2", dynamic=dynamic, shape=None)
    module = module.half() if half else module
    image = torch.rand(batch, 3, *size, dtype=torch.float16 if half else torch.float32)
    shapes = None
    if dynamic:
        height, width = (_STRIDE * torch.export.Dim(name, min=2, max=256) for name in ("rows", "columns"))
        shapes = ({2: height, 3: width},)
    path = check_folder(Path(str(getattr(model, "pt_path"))).with_suffix(".pt2"))  # noqa: B009  # untyped
    return to_pt2(module, (image,), path, dynamic=shapes or False, metadata=metadata)


def _host(
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
    with quiet_exporter(), _own_quantisation(), _nothing_installed():
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


def _raw(model: nn.Module) -> nn.Module:
    """A fused copy in eval mode whose outputs are those of the host's exports: no selection of final boxes inside."""
    module: Any = copy.deepcopy(model).eval().float()
    if hasattr(module, "end2end"):
        module.end2end = False
    return module.fuse(verbose=False)


def _first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else _first(out[0])


def _is_classifier(exported: Exported) -> bool:
    import json
    import zipfile

    with zipfile.ZipFile(exported.path) as archive:
        return json.loads(archive.read("metadata.json"))["task"] == "classify"
