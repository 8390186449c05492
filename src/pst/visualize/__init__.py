"""Pictures: which coarse tokens were selected, and boxes. Needs Pillow (the ``viz`` extra), not a host library."""

from pst.visualize.boxes import draw_boxes
from pst.visualize.selection import Panel, selection_overlay, selection_panels

__all__ = ["Panel", "draw_boxes", "selection_overlay", "selection_panels"]
