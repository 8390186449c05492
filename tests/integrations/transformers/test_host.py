"""What is said where transformers is missing, or of another version."""

from __future__ import annotations

import os
import threading
from importlib import metadata

import pytest

from messages import says
from pst.integrations.transformers import host


def test_another_version_is_refused_with_the_range(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "5.3.9")
    with pytest.raises(ImportError, match=says("pst.integrations.transformers needs transformers ≥ 5.4 … found 5.3.9")):
        host.check_host()


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_as_it_was_afterwards(before, monkeypatch):
    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    if before is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, before)
    with host.unchecked():
        assert os.environ[name] == "1"
    assert os.environ.get(name) == before


def test_threads_share_the_switch(monkeypatch):
    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    monkeypatch.delenv(name, raising=False)
    inside, begun = threading.Event(), threading.Event()

    def first():
        with host.unchecked():
            inside.set()
            begun.wait(60)

    other = threading.Thread(target=first)
    other.start()
    inside.wait(60)
    with host.unchecked():  # begins before the other one ends, and ends after it
        begun.set()
        other.join()
        assert os.environ[name] == "1"
    assert name not in os.environ
