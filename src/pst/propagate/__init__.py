"""Labels, maps and points carried from annotated frames through a video, by attention between two pictures.

Needs the extra "propagate" for its default features; everything else needs torch and NumPy.
"""

from pst.io.versions import check_installed

check_installed("pst.propagate", "numpy", "propagate")

from pst.propagate.carry import carry, with_place  # noqa: E402  # a clear error comes first
from pst.propagate.features import BackboneFeatures, Features  # noqa: E402
from pst.propagate.memory import UNKNOWN  # noqa: E402
from pst.propagate.propagator import Points, Propagator  # noqa: E402
from pst.propagate.setting import Setting  # noqa: E402

__all__ = ["UNKNOWN", "BackboneFeatures", "Features", "Points", "Propagator", "Setting", "carry", "with_place"]
