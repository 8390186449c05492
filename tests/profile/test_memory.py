"""Peak memory sees what is held for a moment only, by the system's mark and by looking; and what one call adds."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pst.profile import memory
from pst.profile.memory import added_memory, added_memory_cuda, peak_memory


def hold(megabytes: int, *, warmup: bool = False) -> None:
    """Allocate and touch; at once given back."""
    block = np.ones((1 if warmup else megabytes) * 1_000_000, dtype=np.uint8)
    assert block[-1] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets its high-water mark")
def test_the_systems_mark_sees_a_moment_and_is_counted_anew() -> None:
    with peak_memory() as before:
        pass
    with peak_memory() as peak:
        hold(400)  # large beside what a process that ran other tests gives back
    with peak_memory() as after:
        pass
    assert peak[0] >= before[0] + 300 > 350  # the interpreter and torch hold more than 50
    assert after[0] < peak[0] - 300


def test_where_there_is_no_mark_the_resident_set_is_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    monkeypatch.setattr(memory, "_RESET", tmp_path / "nowhere" / "clear_refs")
    with peak_memory() as idle:
        pass
    with peak_memory() as busy:
        block = bytearray(b"x") * 200_000_000
        end = time.monotonic() + 60
        while busy[0] < idle[0] + 150:  # the thread that looks may have to wait for its turn
            assert time.monotonic() < end
            time.sleep(0.005)
        del block
    assert busy[0] > idle[0] + 150 > 200


@pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")
def test_added_memory_is_that_of_the_call() -> None:
    assert 190 < added_memory(hold, 200) < 230


def hold_pieces(megabytes: int, *, warmup: bool = False) -> None:
    """Allocate and touch many small blocks, to warm up too; the last one stays, so that the heap cannot shrink."""
    del warmup
    pieces = [np.ones(50_000, dtype=np.uint8) for _ in range(20 * megabytes)]
    KEPT.append(pieces[-1])


KEPT: list[np.ndarray] = []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets its high-water mark")
def test_what_the_heap_kept_of_the_warm_up_is_counted_too() -> None:
    assert 38 < added_memory(hold_pieces, 40) < 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_allocator_is_asked() -> None:
    held = torch.zeros(10_000_000, dtype=torch.uint8, device="cuda")
    with peak_memory("cuda") as peak:
        torch.zeros(50_000_000, dtype=torch.uint8, device="cuda")
    assert 60 <= peak[0] < 70 + torch.cuda.memory_allocated() / 1e6
    added = added_memory_cuda(lambda: torch.zeros(50_000_000, dtype=torch.uint8, device="cuda"))
    assert 49 < added < 53
    assert held.numel() == 10_000_000
