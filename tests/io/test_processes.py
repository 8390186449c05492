"""Processes that were started for a piece of work are gone soon after the one that started them is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from messages import says
from pst.io.processes import end_with_parent
from tiny_clips import moving, write_mask, write_video

CLIPS = (
    "from pst.propagate.many import propagate_clips; from pst.propagate.network import Network\n"
    "list(propagate_clips(here / 'clips', here / 'masks', here / 'out', jobs=2, progress=False,\n"
    "    network=Network(Called(here)), size=64, ratio=4))"
)
TOOL = "from lab.two_maps.tool import _in_processes\nlist(_in_processes(Sleeper(here), {'a': None}, 2))"
FROZEN = "from lab.frozen.run import _results\nlist(_results(Sleeper(here), [None], 2))"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    "code", [CLIPS, pytest.param(TOOL, marks=pytest.mark.slow), FROZEN], ids=["clips", "tool", "frozen"]
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_work_ends_with_the_process_that_began_it(code, name, tmp_path):
    number = getattr(signal, name)
    for clip in ("a", "b"):
        write_video(moving(2), tmp_path / "clips" / f"{clip}.mp4")
        write_mask(moving(2).masks[0], tmp_path / "masks" / clip / "00000.png")
    start = f"from pathlib import Path; from sleeper import *; here = Path({str(tmp_path)!r})\n{code}"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", start], env=env) as first:
        wait_for((tmp_path / "begun").is_file, first)
        with pytest.raises(Timeout):
            FileLock(tmp_path / "sleeping.lock").acquire(timeout=0)
        first.send_signal(number)
        assert first.wait(60) == -number
    with FileLock(tmp_path / "sleeping.lock", timeout=60):
        pass


def wait_for(what, process):
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)


def test_a_process_that_nobody_began_has_none_to_end_with():
    assert multiprocessing.parent_process() is None
    with pytest.raises(RuntimeError, match=says("not started by multiprocessing")):
        end_with_parent()
