"""Pictures: selected coarse tokens, boxes, classes of pixels. Needs Pillow (the ``viz`` extra), not a host library."""

from pst.visualize.boxes import draw_boxes
from pst.visualize.classes import name_classes, paint_classes
from pst.visualize.selection import Panel, selection_overlay, selection_panels

__all__ = ["Panel", "draw_boxes", "name_classes", "paint_classes", "selection_overlay", "selection_panels"]
