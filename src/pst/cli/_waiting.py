"""How long a thread of PyTorch that has nothing to do waits busily before it sleeps.

OpenMP's threads wait for one another after every operator. GNU's, PyTorch's on Linux, spin for milliseconds. Beside
other processes that burns the time in which the thread that is waited for could run, and training becomes several
times as slow (docs/speed.md). The libraries read these variables once, when PyTorch is loaded.
"""

from __future__ import annotations

from collections.abc import MutableMapping

DEFAULTS = {
    "GOMP_SPINCOUNT": "4000",  # rounds of GNU's OpenMP, instead of 300,000; with none at all an idle machine is slower
}
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # each says how to wait


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Set `DEFAULTS` in ``environment`` unless it says already how OpenMP's threads wait."""
    if not any(name in environment for name in CHOSEN):
        environment.update(DEFAULTS)
