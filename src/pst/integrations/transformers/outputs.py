"""A detector with plain tensors in and out, for exporters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pst.integrations.transformers.host import unchecked


class Predictions(nn.Module):
    """A detector of transformers as a function of images: what `pst.export.to_onnx` and `pst.export.to_pt2` take.

    Args:
        model: A detector of transformers, with PST or without; shared, not copied.

    Attributes:
        output_names: Of the tensors that come out.

    Examples:
        >>> from transformers import DFineConfig, DFineForObjectDetection
        >>> predictions = Predictions(DFineForObjectDetection(DFineConfig()).eval())
        >>> [tuple(y.shape) for y in predictions(torch.rand(1, 3, 640, 640))]
        [(1, 300, 2), (1, 300, 4)]
    """

    output_names = ("logits", "pred_boxes")

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits (B, queries, classes), boxes (B, queries, 4): centre, width, height in 0…1."""
        with unchecked():
            found = self.model(pixel_values=pixel_values)
        return found.logits, found.pred_boxes
