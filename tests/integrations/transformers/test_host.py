"""What is said where transformers is missing, or of another version."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError

import pytest

from messages import says
from pst.integrations.transformers import host


@pytest.mark.parametrize("found", ["4.57.1", "5.3.9", "6.0.0", "6.1.0.dev0", "nonsense"])
def test_another_version_is_refused_with_the_range(found, monkeypatch):
    monkeypatch.setattr(host, "version", lambda name: found)
    with pytest.raises(ImportError, match=says(f"transformers ≥ 5.4 and < 6 … {found} … pip install")):
        host.check_host()


@pytest.mark.parametrize("found", ["5.4.0", "5.24.0", "5.100.0.dev0", "5.10rc1"])
def test_versions_in_the_range_are_taken(found, monkeypatch):
    monkeypatch.setattr(host, "version", lambda name: found)
    host.check_host()


def test_none_is_refused_with_the_range(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(host, "version", missing)
    with pytest.raises(ImportError, match=says("transformers ≥ 5.4 and < 6 … not installed … pip install")):
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
