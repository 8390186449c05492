"""The trainer: classification, detection and segmentation with PST models and their plain rivals.

`load_config` makes the settings of a run, `fit` trains, `evaluate` measures. ``pst train``, ``pst val`` and
``pst predict`` are these on the command line.
"""

from pst.io.versions import check_installed

check_installed("pst.train", "accelerate", "train")

from pst.train.config import Config  # noqa: E402  # a clear error comes first
from pst.train.evaluate import evaluate, sweep  # noqa: E402
from pst.train.loop import fit  # noqa: E402
from pst.train.models import load_trained  # noqa: E402
from pst.train.settings import load_config  # noqa: E402

__all__ = ["Config", "evaluate", "fit", "load_config", "load_trained", "sweep"]
