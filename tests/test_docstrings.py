"""The examples of the docstrings run and print what they say, and each public class of the reference has one."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pst

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "src/pst").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)  # found by their text: importing all hosts would slow down every run's collection


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    module = importlib.import_module(name)
    for example in doctest.DocTestFinder().find(module, extraglobs={"torch": torch, "pst": pst, "np": np}):
        runner.run(example, out=said.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(said)


def test_each_public_class_has_an_example():
    names = re.findall(r"^::: (pst\.\S+)$", REFERENCE, re.MULTILINE)
    names += [f"pst.integrations.{host}" for host in ("segmentation", "timm", "torchvision", "ultralytics")]
    classes = {each for name in names for each in classes_of(name) if not is_described_elsewhere(each)}
    assert len(classes) > 20
    assert [each for each in classes if ">>> " not in (each.__doc__ or "")] == []


def classes_of(name: str) -> list[type]:
    """The class of that name, or those that a module of that name exports."""
    owner, _, last = name.rpartition(".")
    listed = getattr(importlib.import_module(owner), last, None)
    if isinstance(listed, type):
        return [listed]
    values = [getattr(listed, each) for each in getattr(listed, "__all__", ())]
    return [value for value in values if isinstance(value, type)]


def is_described_elsewhere(each: type) -> bool:
    """A record that a function returns, or a protocol."""
    return issubclass(each, tuple) or getattr(each, "_is_protocol", False)
