"""What each target can do, and one message for what it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from pst.io.versions import install_extra, is_installed

MAX_TOPK = 3840  # TensorRT's TopK layer takes no larger k


class Format(NamedTuple):
    """One export target.

    Attributes:
        suffix: Of the file or folder that is written.
        packages: Python packages that the export needs, by the name that pip knows -> the name that is imported.
        fine: Whether it can run k > 0.
        dynamic: Whether batch, height and width may be left open.
        batches: Whether it can have more than one image in a batch.
        half: Whether FP16 can be written here.
        int8: Whether INT8 can be written with softmax and gate kept in float.
        free_bound: Whether a dynamic file may have a bound on its coarse tokens.
        install: What to do for packages that our extra has not.
    """

    suffix: str
    packages: Mapping[str, str]
    fine: bool = True
    dynamic: bool = True
    batches: bool = True
    half: bool = True
    int8: bool = False
    free_bound: bool = False
    install: str = ""


_ONNX = {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxslim": "onnxslim"}
FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", _ONNX, int8=True),
    "openvino": Format("_openvino_model", {"openvino": "openvino"}, int8=True),
    "torchscript": Format(".torchscript", {}, half=False),
    "pt2": Format(".pt2", {}, free_bound=True),
    "ncnn": Format("_ncnn_model", {"ncnn": "ncnn", "pnnx": "pnnx"}, fine=False, dynamic=False, batches=False),
    "litert": Format(
        ".tflite",
        {"litert-torch": "litert_torch", "ai-edge-litert": "ai_edge_litert"},
        fine=False,
        dynamic=False,
        half=False,
        install="in an environment of its own, for they bring fifty packages, pip install litert-torch ai-edge-litert",
    ),
    "coreml": Format(
        ".mlpackage",
        {"coremltools": "coremltools"},
        dynamic=False,
        batches=False,
        install="in an environment of its own, pip install 'coremltools>=9' 'numpy<=2.3.5'",
    ),
    "engine": Format(".engine", {**_ONNX, "tensorrt": "tensorrt"}),
}
_IN_EXTRA = {*_ONNX, "openvino", "nncf", "ncnn", "pnnx"}  # "export" of ours installs them
_NO_FINE = {
    "ncnn": "it has no TopK operator",
    "litert": "its converter (litert-torch 0.10) translates neither the sort behind top-k nor the gate",
}
_NO_HALF = {
    "torchscript": "PyTorch traces it in FP16 on a GPU only",
    "litert": "its file is FP32, and the phone's GPU runs that in FP16",
}


def check_request(
    name: str,
    *,
    topk: int = 0,
    max_tokens: int | None = None,
    batch: int = 1,
    dynamic: bool = False,
    half: bool = False,
    int8: bool = False,
    data: object = None,
) -> Format:
    """The format called ``name``, once it is known to be able to do all that is asked.

    Args:
        name: A key of `FORMATS`.
        topk: k that the file will have.
        max_tokens: Most coarse tokens that queries attend to in the file; None means no bound.
        batch: Images in a batch.
        dynamic: Whether batch, height and width are left open.
        half: FP16.
        int8: INT8.
        data: Dataset to calibrate INT8 with.

    Raises:
        ValueError: It cannot do so; the message says what else to do.
        ImportError: A package that it needs is missing; the message holds the command that installs it.
    """
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}: choose one of {', '.join(FORMATS)}")
    target = FORMATS[name]
    if topk > MAX_TOPK:
        raise ValueError(f"topk is {topk}, but TensorRT, and so every export here, takes {MAX_TOPK} at most")
    if topk > 0 and not target.fine:
        raise ValueError(f"{name} cannot run topk={topk}, for {_NO_FINE[name]}: export the coarse model, topk=0")
    if dynamic and not target.dynamic:
        raise ValueError(f"{name} files have one size here: leave dynamic out and set imgsz and batch")
    if dynamic and max_tokens is not None and not target.free_bound:
        raise ValueError(no_free_bound(f"a dynamic {name} file", max_tokens))
    if batch > 1 and not target.batches:
        raise ValueError(f"{name} files take one image at a time here, got batch={batch}: leave batch out")
    if half and int8:
        raise ValueError("half and int8 exclude each other: choose one")
    if half and not target.half:
        raise ValueError(f"no FP16 for {name}, for {_NO_HALF[name]}: leave half out")
    if int8 and not target.int8:
        can = ", ".join(n for n, f in FORMATS.items() if f.int8)
        raise ValueError(f"no INT8 for {name} that keeps softmax and gate in float: export to {can}")
    if int8 and data is None:
        raise ValueError("int8 needs data=YAML, a data set whose images give the ranges of the activations")
    packages = dict(target.packages) | ({"nncf": "nncf"} if int8 and name == "openvino" else {})
    missing = [package for package, module in packages.items() if not is_installed(module)]
    if missing and name != "engine":  # which says more when it finds no GPU
        remedy = install_extra("export") if set(missing) <= _IN_EXTRA else target.install
        raise ImportError(f"{name} needs {' and '.join(missing)}: {remedy}")
    return target


def check_inputs(example_inputs: object) -> None:
    """Raise TypeError for one tensor in the place of several: its rows would be taken for inputs."""
    if isinstance(example_inputs, Tensor):
        raise TypeError("example_inputs must be a tuple of tensors, got one tensor: write (x,)")


def no_free_bound(what: str, max_tokens: int) -> str:
    """Why a traced file of open sizes has no bound."""
    return (
        f"{what} cannot have max_tokens={max_tokens}, for tracing keeps how many tokens of its own size are averaged: "
        "leave dynamic or max_tokens out, or export to pt2"
    )
