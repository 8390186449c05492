"""Files for other runtimes: ONNX and ``torch.export`` programs of any module, and running what was written.

A YOLO model goes through `pst.integrations.ultralytics.export`, which builds on this and on Ultralytics' own exporter.
"""

from pst.export.compare import Difference, compare
from pst.export.limits import FORMATS, MAX_TOPK, Format, check_request
from pst.export.onnx_file import newest_opset, to_onnx
from pst.export.precision import onnx_to_float16, quantize_onnx, quantize_openvino
from pst.export.program import to_pt2
from pst.export.runtime import load

__all__ = [
    "FORMATS",
    "MAX_TOPK",
    "Difference",
    "Format",
    "check_request",
    "compare",
    "load",
    "newest_opset",
    "onnx_to_float16",
    "quantize_onnx",
    "quantize_openvino",
    "to_onnx",
    "to_pt2",
]
