"""ONNX files of any module, from opset 17 to the newest that the installed packages know."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pst.control.layers import eval_mode, find_attention
from pst.export.limits import check_inputs, no_free_bound
from pst.functional.grid import open_sizes
from pst.io.files import check_parent, replacing
from pst.io.versions import install_extra

OLDEST_OPSET = 17
TRACED_OPSET = 20  # the newest that PyTorch's tracing exporter writes; beyond it the file is converted
TESTED_OPSET = 26  # the newest whose files were run, with ONNX Runtime 1.32
DEFAULT_OPSET = 17  # every ONNX Runtime, OpenVINO and TensorRT ≥ 8.6 in use reads it


def to_onnx(
    module: nn.Module,
    example_inputs: Sequence[Tensor],
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    dynamic: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Export a module to ONNX by tracing it.

    k of every PST layer becomes a constant of the graph, at most the number of coarse tokens of the example: with
    ``dynamic`` no smaller coarse map can be run. So does the number of tokens that ``max_tokens`` averages.

    Args:
        module: Any module; it is traced in eval mode and given its own mode back.
        example_inputs: Its tensors.
        path: The file to write; replaced when it exists.
        opset: `OLDEST_OPSET` to `newest_opset`.
        dynamic: Leave batch, height and width of every input open; ratios between maps stay those of the example.
        input_names: Of the graph; None gives "input0", "input1", …
        output_names: Of the graph; None gives "output0", …
        metadata: Kept in the file's header.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: Its folder does not exist.
        ImportError: onnx is not installed.
        TypeError: ``example_inputs`` is one tensor.
        ValueError: The opset is out of range, or ``dynamic`` and a PST layer has a bound.
    """
    check_inputs(example_inputs)
    path = check_parent(path)
    check_opset(opset)
    bounds = [layer.settings.max_tokens for layer in find_attention(module).values()]
    bound = next((bound for bound in bounds if bound is not None), None)
    if dynamic and bound is not None:
        raise ValueError(no_free_bound("a dynamic ONNX file", bound))
    inputs = [f"input{i}" for i in range(len(example_inputs))] if input_names is None else list(input_names)
    axes = {name: {0: "batch", 2: f"height{i}", 3: f"width{i}"} for i, name in enumerate(inputs)}
    with replacing(path) as part:
        with eval_mode(module), quiet_exporter(), open_sizes() if dynamic else nullcontext():
            outputs = _output_names(module, example_inputs) if output_names is None else list(output_names)
            torch.onnx.export(
                module, tuple(example_inputs), str(part), opset_version=min(opset, TRACED_OPSET), input_names=inputs,
                output_names=outputs, dynamic_axes=axes if dynamic else None, dynamo=False,
            )  # fmt: skip
        finish(part, opset=opset, metadata=metadata)
    return path


def _output_names(module: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    with torch.no_grad():
        count = sum(isinstance(leaf, Tensor) for leaf in tree_leaves(module(*inputs)))
    return [f"output{i}" for i in range(count)]


def finish(path: Path, *, opset: int | None = None, metadata: Mapping[str, str] | None = None) -> None:
    """Raise a file's opset, for ``opset`` > its own, and add metadata."""
    import onnx

    model = onnx.load(path)
    own = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset is not None and opset > own:
        entries = list(model.metadata_props)
        ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
        model = onnx.version_converter.convert_version(model, opset)
        del model.metadata_props[:]
        model.metadata_props.extend(entries)
        model.ir_version = max(model.ir_version, ir_version)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, str(value)
    with replacing(path) as part:
        onnx.save(model, part)


def newest_opset() -> int:
    """The newest opset that the installed onnx can write, up to `TESTED_OPSET`."""
    import onnx

    return min(onnx.defs.onnx_opset_version(), TESTED_OPSET)


def check_opset(opset: int) -> None:
    """Raise ImportError without onnx, ValueError unless `OLDEST_OPSET` ≤ ``opset`` ≤ `newest_opset`."""
    try:
        newest = newest_opset()
    except ImportError as error:
        raise ImportError(f"ONNX export needs onnx: {install_extra('export')}") from error
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"opset must be from {OLDEST_OPSET} to {newest} with the packages installed, got {opset}")


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without the tracer's remarks on sizes that it makes constant and PyTorch's on its own older exporter."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, torch.jit.TracerWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        yield
