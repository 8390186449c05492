"""Running an exported file, on the CPU, through the runtime that it was made for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pst.export.archive import check_program
from pst.export.onnx_file import quiet_exporter
from pst.io.files import explained

Run = Callable[..., Tensor]


def load(path: str | Path, *, threads: int | None = None, trust: bool = False) -> Run:
    """A function that runs an exported file: float32 tensors in, its first output as a float32 tensor out.

    ONNX Runtime's threads stop waiting for work when a call ends, so that several files can be run in turn.

    Args:
        path: What an export returned: ``.onnx``, ``.pt2``, ``.torchscript``, ``.tflite``, or the folder of OpenVINO
            or ncnn.
        trust: Run a ``.torchscript`` file, which can do more than arithmetic, e.g. write files; and whatever a ``.pt2``
            file holds, pickles included. Only for files that you trust.
        threads: Of the runtime; None leaves it to the runtime. PyTorch's own formats use ``torch.set_num_threads``.

    Raises:
        FileNotFoundError: Nothing is there.
        ImportError: The runtime is not installed.
        ValueError: The format cannot be run here: Core ML needs macOS, TensorRT an NVIDIA GPU. Or the file could do
            more than arithmetic, and ``trust`` is not set. Or its runtime cannot read it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no exported model at {path}")
    kind = "_ncnn_model" if path.name.endswith("_ncnn_model") else "openvino" if path.is_dir() else path.suffix
    if path.suffix == ".mlpackage":
        kind = ".mlpackage"
    if kind in (".mlpackage", ".engine"):
        raise ValueError(f"{path} cannot be run here: Core ML needs macOS, TensorRT an NVIDIA GPU")
    if kind not in _LOADERS:
        raise ValueError(f"{path} has no known format: expected {', '.join(_LOADERS)}")
    if not trust and kind == ".torchscript":
        raise ValueError(
            f"{path} is not loaded: TorchScript can do more than arithmetic; pass trust=True if you trust it"
        )
    if not trust and kind == ".pt2":
        check_program(path)
    with explained(f"{path} is damaged, or of another version, export it again", passing=(OSError, ImportError)):
        return _LOADERS[kind](path, threads)


def _onnx(path: Path, threads: int | None) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    # Else they wait busily and slow whatever runs next: three files in turn took 1.3 to 1.5 times as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: t.numpy() for name, t in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0]).float()

    return run


def _openvino(path: Path, threads: int | None) -> Run:
    import openvino

    core = openvino.Core()
    # float32, or OpenVINO computes in bfloat16 on processors that have it
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(next(path.glob("*.xml")), "CPU", settings)

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(compiled([t.numpy() for t in inputs])[0].copy()).float()

    return run


def _torch(module: Callable[..., Any], dtype: torch.dtype) -> Run:
    def run(*inputs: Tensor) -> Tensor:
        with torch.no_grad():
            out = module(*(t.to(dtype) for t in inputs))
        return tree_leaves(out)[0].float()

    return run


def _program(path: Path, _: int | None) -> Run:
    program = torch.export.load(path)
    dtypes = (t.dtype for t in program.state_dict.values() if t.is_floating_point())
    return _torch(program.module(), next(dtypes, torch.float32))


def _torchscript(path: Path, _: int | None) -> Run:
    with quiet_exporter():
        return _torch(torch.jit.load(str(path)), torch.float32)


def _litert(path: Path, threads: int | None) -> Run:
    interpreter: Any = import_module("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    entries, result = interpreter.get_input_details(), interpreter.get_output_details()[0]

    def run(*inputs: Tensor) -> Tensor:
        for entry, t in zip(entries, inputs, strict=True):
            interpreter.set_tensor(entry["index"], t.numpy())
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(result["index"]).copy()).float()

    return run


def _ncnn(path: Path, threads: int | None) -> Run:
    ncnn: Any = import_module("ncnn")  # compiled, without types

    net = ncnn.Net()
    if threads is not None:
        net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.load_param(str(path / "model.ncnn.param"))
    net.load_model(str(path / "model.ncnn.bin"))

    def run(*inputs: Tensor) -> Tensor:
        if any(t.shape[0] != 1 for t in inputs):
            raise ValueError(f"ncnn runs one image at a time, got a batch of {inputs[0].shape[0]}")
        with net.create_extractor() as extractor:
            for name, t in zip(sorted(net.input_names()), inputs, strict=True):
                extractor.input(name, ncnn.Mat(t[0].contiguous().numpy()).clone())
            _, out = extractor.extract(min(net.output_names()))
        return torch.from_numpy(out.numpy().copy())[None].float()

    return run


_LOADERS: dict[str, Callable[[Path, int | None], Run]] = {
    ".onnx": _onnx,
    ".pt2": _program,
    ".torchscript": _torchscript,
    ".tflite": _litert,
    "openvino": _openvino,
    "_ncnn_model": _ncnn,
}
