"""The bar is there on a terminal, even on one that says nothing of its size, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from pst.profile.bar import bar
from pst.profile.timing import interleave
from terminal import terminal_without_size


@pytest.fixture
def terminal():
    with terminal_without_size() as found:
        yield found


def test_it_is_drawn_and_goes_away(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(bar([1, 2], "epoch", total=2)) == [1, 2]
    assert "epoch:   0%|" in terminal.getvalue()
    assert "0/2 [" in terminal.getvalue()
    assert terminal.getvalue().rpartition("\r")[2] == ""


def test_the_rounds_of_a_timing_have_one(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    interleave({"nothing": lambda: None}, seconds=0.01)
    assert "rounds" in terminal.getvalue()


def test_it_goes_on_from_what_is_done(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar(None, "clip", total=4, done=3) as shown:
        shown.update()
    assert "3/4 [" in terminal.getvalue()


def test_there_is_none_in_a_pipe_nor_in_other_processes(terminal, monkeypatch):
    for stream, enabled in [(terminal, False), (io.StringIO(), True)]:
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(bar([1, 2], "epoch", total=2, enabled=enabled)) == [1, 2]
        assert stream.getvalue() == ""
