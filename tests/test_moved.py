"""Import paths of earlier versions work for one minor release, and say what to use."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from messages import says
from pst._moved import GONE, MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_gives_the_new_module_and_warns(old, monkeypatch):
    for host in ("safetensors", "torchvision", "timm", "ultralytics"):
        if host in MOVED[old] or "train" in old:
            pytest.importorskip(host)
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=says(f"{old} … {MOVED[old]}")):
        module = import_module(old)
    assert module is import_module(MOVED[old])


@pytest.mark.parametrize("old", GONE)
def test_what_left_the_package_says_where_it_went(old):
    with pytest.raises(ModuleNotFoundError, match=says(f"{old} … {GONE[old]}")):
        import_module(old)
