"""What every test runs under: its own seeds, one thread, no leftovers from other tests or earlier runs."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

# Ultralytics writes its settings file when imported: never the user's own.
os.environ["YOLO_CONFIG_DIR"] = _config = tempfile.mkdtemp(prefix="pst-tests-")
os.environ["YOLO_OFFLINE"] = "true"  # no look-ups, no downloads
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as if it were activated
atexit.register(shutil.rmtree, _config, ignore_errors=True)

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

pytest.register_assert_rewrite("battery", "tensors")

# The same examples in every run; none remembered on disk. The first call of an operator is slow, so no deadline.
hypothesis.settings.register_profile("pst", derandomize=True, database=None, deadline=None, print_blob=True)
hypothesis.settings.load_profile("pst")


def _start_afresh() -> None:
    """Seeds, and one thread: on a CPU Ultralytics takes all cores but one for the rest of the process."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 the libraries under test use the global generator
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _alone() -> None:
    _start_afresh()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """What several tests share is made the same, whichever of them comes first."""
    if fixturedef.scope != "function":
        _start_afresh()
