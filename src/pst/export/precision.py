"""FP16 and INT8 that keep the sensitive parts in float: scores and top-k; softmax, gate and the products of attention.

INT8 is for convolutions alone, which are nearly all of the work: weights by channel, activations by tensor. A top-k
over rounded scores picks other tokens, and a softmax or gate of rounded logits loses what they tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pst.io.files import replacing

_SCORING = {"Cast", "Mul", "ReduceMean", "ReduceSum"}  # from the projected query and key to top-k
_MOVES = {"Reshape", "Transpose"}  # operators that only move numbers
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_NO_ARITHMETIC = ("Constant", "Parameter", "Result")


def onnx_to_float16(src: str | Path, dst: str | Path) -> Path:
    """Convert an ONNX file to FP16; inputs, outputs, and the scores that top-k ranks stay float32.

    Args:
        src: A float32 ``.onnx`` file.
        dst: The file to write; may be ``src``.

    Returns:
        ``dst``.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnx
    from onnxruntime.transformers import float16

    model = onnx.load(src)
    keep = [*float16.DEFAULT_OP_BLOCK_LIST]
    model = float16.convert_float_to_float16(
        model, keep_io_types=True, op_block_list=keep, node_block_list=_scoring_nodes(model.graph)
    )
    with replacing(dst) as part:
        onnx.save(model, part)
    return Path(dst)


def quantize_onnx(src: str | Path, dst: str | Path, batches: Iterable[Any]) -> Path:
    """Quantise the convolutions of an ONNX file to INT8 (QDQ, static ranges), all else stays float.

    Args:
        src: A float32 ``.onnx`` file of opset 20 or older, with one input.
        dst: The file to write; another than ``src``.
        batches: float32 NumPy arrays of the input's shape, which ranges are read from; iterated once.

    Returns:
        ``dst``.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: ``batches`` is empty.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    graph = onnx.load(src).graph
    name, first = graph.input[0].name, iter(batches)

    class Reader(CalibrationDataReader):
        count = 0

        def get_next(self) -> Any:
            batch = next(first, None)
            self.count += batch is not None
            return None if batch is None else {name: batch}

    reader = Reader()
    keep = _float_nodes(graph)
    with replacing(dst) as part:
        quantize_static(
            str(src), str(part), reader, quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_exclude=keep
        )  # fmt: skip
        if reader.count == 0:
            raise ValueError("no batches to calibrate with: pass at least one image")
    return Path(dst)


def quantize_openvino(model: Any, batches: Any) -> Any:
    """Quantise the convolutions of an ``openvino.Model`` to INT8, all else stays float.

    Args:
        model: With float weights.
        batches: ``nncf.Dataset``, which ranges are read from.

    Returns:
        The quantised ``openvino.Model``.

    Raises:
        ImportError: nncf is not installed.
    """
    import nncf

    keep = nncf.IgnoredScope(names=list(_float_operators(model)), validate=False)
    return nncf.quantize(
        model,
        batches,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=keep,
        subset_size=batches.get_length() or 300,
    )


def _scoring_nodes(graph: Any) -> list[str]:
    """Names of the nodes between the projections and each TopK."""
    producers = {output: node for node in graph.node for output in node.output}
    names: set[str] = set()
    open_ends = [node.input[0] for node in graph.node if node.op_type == "TopK"]
    while open_ends:
        node = producers.get(open_ends.pop())
        if node is not None and node.op_type in _SCORING and node.name not in names:
            names.add(node.name)
            open_ends += node.input
    return sorted(names)


def _float_nodes(graph: Any) -> list[str]:
    """Names of the nodes that are not a convolution, or one of the probabilities that a softmax gave (box decoding)."""
    producers = {output: node for node in graph.node for output in node.output}

    def follows_softmax(node: Any) -> bool:
        while node is not None and node.op_type in _MOVES:
            node = producers.get(node.input[0])
        return node is not None and node.op_type == "Softmax"

    return [
        node.name
        for node in graph.node
        if node.op_type != "Conv" or follows_softmax(producers.get(node.input[0]))
    ]  # fmt: skip


def _float_operators(model: Any) -> Iterator[str]:
    """The same as `_float_nodes`, for OpenVINO."""

    def source(operator: Any) -> Any:
        return operator.input_value(0).get_node()

    for operator in model.get_ordered_ops():
        kind = operator.get_type_name()
        if kind in _NO_ARITHMETIC:
            continue
        if kind in _CONVOLUTIONS:
            before = source(operator)
            while before.get_type_name() in _MOVES:
                before = source(before)
            if before.get_type_name() != "Softmax":
                continue
        yield operator.get_friendly_name()
