"""The package's public names: complete, lazy, and light."""

import subprocess
import sys

import pytest

import pst


def test_lazy_names_are_complete():
    assert set(pst.__all__) <= set(dir(pst))
    for name in pst.__all__:
        assert getattr(pst, name) is not None
    with pytest.raises(AttributeError, match="module 'pst' has no attribute 'no_such_name'"):
        getattr(pst, "no_such_name")  # noqa: B009  # a type checker knows that it is missing


def test_import_loads_nothing_heavier_than_torch():
    heavy = ["timm", "torchvision", "ultralytics", "onnx", "PIL", "matplotlib"]
    code = f"import sys; from pst import *; print([m for m in {heavy} if m in sys.modules], 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[] True\n"
