"""Loaders with processes: Ctrl+C is heard while they start, and one that is killed is said in a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from torch.utils.data import Dataset

from pst.train import load_config
from pst.train.batches import dealt, plain_loader, worker_errors
from pst.train.tasks import make_task
from train_runs import TASKS, settings


@pytest.fixture(autouse=True)
def _as_at_a_terminal() -> Iterator[None]:
    """SIGINT interrupts, also where a script that runs the tests in its background ignores it for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Forking:
    """A loader in whose start the first interruption is dropped, as in a fork."""

    def __init__(self, interrupts: int) -> None:
        self.interrupts = interrupts

    def __iter__(self) -> Iterator[Any]:
        if self.interrupts > 0:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        if self.interrupts > 1:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not interrupted")
        yield "first"
        yield "second"


def test_an_interruption_waits_until_the_processes_are_there():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        list(dealt(Forking(1)))
    assert signal.getsignal(signal.SIGINT) is before
    assert list(dealt(Forking(0))) == ["first", "second"]
    assert list(dealt([])) == []


def test_a_second_interruption_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        next(dealt(Forking(2)))
    assert signal.getsignal(signal.SIGINT) is before


class Killed(Dataset[Any]):
    """Images, of which the third ends the process that reads it."""

    def __len__(self) -> int:
        return 4

    def __getitems__(self, indices: list[int]) -> list[int]:
        if 2 in indices:
            os.kill(os.getpid(), signal.SIGKILL)
        return indices


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_process_that_was_killed_is_said_with_what_to_do():
    config = load_config("classify", overrides={"data": "d", "batch": 1, "workers": 1})
    with pytest.raises(OSError, match=r"killed, perhaps for want of memory: set fewer workers="), worker_errors():
        list(dealt(plain_loader(Killed(), config)))


@pytest.mark.parametrize("task", TASKS)
def test_processes_that_are_spawned_read_the_same(task, tmp_path):
    config = load_config(task, overrides=settings(task, tmp_path, workers=1))
    data = make_task(config).dataset("train")
    loader = plain_loader(data, config)
    loader.multiprocessing_context = "spawn"
    first = next(iter(dealt(loader)))
    assert first.images.equal(data.__getitems__(range(config.batch)).images)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="out of memory"), worker_errors():
        raise RuntimeError("out of memory")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows has no process groups")
@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_ctrl_c_at_a_terminal_ends_a_run_with_processes(delay, tmp_path):
    asked = settings("classify", tmp_path, epochs=500, workers=2)
    command = [sys.executable, "-m", "pst", "train", "classify", *(f"{name}={value}" for name, value in asked.items())]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        while not (tmp_path / "run/config.yaml").is_file() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "--resume" in said
