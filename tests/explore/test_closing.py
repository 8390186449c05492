"""Ctrl+C while something is computed: the work ends after the picture that it is at, and the process as it should."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from PIL import Image

from pst.explore import carrying
from pst.explore.clip import Clip
from pst.explore.explorer import Explorer, Session, Wanted
from pst.explore.marks import Marks
from pst.explore.models import PROPAGATION, Choice
from pst.explore.view import Asked
from tiny_clips import moving, patches

AT_WORK = """
import threading
import torch
from pst.explore.explorer import Explorer

explorer, begun = Explorer([]), threading.Event()

def work():
    while True:
        with explorer.running():
            begun.set()
            for _ in range(20):
                torch.randn(300, 300, requires_grad=True).mm(torch.randn(300, 300)).sum().backward()

threading.Thread(target=work, daemon=True).start()
begun.wait()
explorer.close()
"""


def test_a_process_that_ends_at_work_is_not_aborted():
    codes = [subprocess.run([sys.executable, "-c", AT_WORK], check=False).returncode for _ in "abc"]
    assert codes == [0, 0, 0]


def test_close_waits_and_nothing_begins_after_it():
    explorer, inside, leave, done = Explorer([Choice(PROPAGATION, None)]), threading.Event(), threading.Event(), []

    def work():
        with explorer.running():
            inside.set()
            leave.wait(10)
            done.append("work")

    def close():
        explorer.close()
        done.append("closed")

    threads = [threading.Thread(target=each) for each in (work, close)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert done == ["work", "closed"]
    with pytest.raises(ValueError, match="the page was closed"), explorer.running():
        done.append("never")
    assert done == ["work", "closed"]


def test_a_clip_is_left_after_the_picture_that_is_carried(monkeypatch):
    monkeypatch.setattr(carrying, "EDGE", 64)
    truth = moving(5)
    frames = tuple(map(Image.fromarray, truth.frames))
    session = Session(
        Clip(tuple(map(str, range(5))), frames, frames[0].size), Marks(mask=Image.fromarray(truth.masks[0]))
    )
    explorer, seen = Explorer([Choice(PROPAGATION, None)], patches), []

    def told(done, of):
        seen.append(done)
        explorer.close()

    with pytest.raises(ValueError, match="the page was closed"):
        explorer.show(session, Wanted(PROPAGATION, Asked(0), "", 0, 4), told)
    assert seen == [1]
