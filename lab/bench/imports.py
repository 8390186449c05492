"""How long the package takes to import, against torch alone."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

from lab.bench.suites import ratio_records
from pst.profile.timing import interleave

PROGRAMS = {
    "import torch": "import torch",
    "import pst": "import pst",
    "import pst, every public name": "import pst; [getattr(pst, name) for name in pst.__all__]",
}


def run_imports(rounds: int = 9) -> list[dict[str, Any]]:
    """Fresh interpreters in turn, from start to exit: name, times, ratio to the first.

    `pst` loads its names when they are first used, so that importing it alone takes next to nothing; the honest figure
    is the one with every public name used, which loads torch too.

    Args:
        rounds: Counted runs of each.
    """
    cases = {name: partial(subprocess.run, [sys.executable, "-c", code], check=True) for name, code in PROGRAMS.items()}
    return ratio_records(interleave(cases, seconds=0, min_runs=rounds, warmup=1))
