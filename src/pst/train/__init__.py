"""The trainer: classification, detection and segmentation with PST models and their plain rivals.

`load_config` makes the settings of a run, `fit` trains, `evaluate` measures. ``pst train``, ``pst val`` and
``pst predict`` are these on the command line.
"""

from pst.train.config import Config
from pst.train.evaluate import evaluate, sweep
from pst.train.loop import fit
from pst.train.models import load_trained
from pst.train.settings import load_config

__all__ = ["Config", "evaluate", "fit", "load_config", "load_trained", "sweep"]
