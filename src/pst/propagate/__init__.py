"""Labels, maps and points carried from annotated frames through a video, by attention between two pictures.

Needs the extra "propagate" for its default features; everything else needs torch and NumPy.
"""

from pst.propagate.carry import carry, with_place
from pst.propagate.features import BackboneFeatures, Features
from pst.propagate.memory import UNKNOWN
from pst.propagate.propagator import Points, Propagator, Setting

__all__ = ["UNKNOWN", "BackboneFeatures", "Features", "Points", "Propagator", "Setting", "carry", "with_place"]
