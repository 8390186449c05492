"""Registering, names, and the range of tested versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import ultralytics
from ultralytics.engine import model as host_model
from ultralytics.nn import tasks

from messages import says
from pst.integrations import ultralytics as adapter
from pst.integrations.ultralytics import bundled_models, register, unregister

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped


@pytest.fixture(autouse=True)
def unregistered():
    unregister()
    yield
    unregister()


def test_unregister_gives_the_originals_back() -> None:
    before = tasks.parse_model, tasks.yaml_model_load, host_model.yaml_model_load
    register()
    register()
    assert tasks.parse_model is not before[0]
    unregister()
    assert (tasks.parse_model, tasks.yaml_model_load, host_model.yaml_model_load) == before
    unregister()


def test_stock_yolo_builds_bundled_names_once_registered() -> None:
    with pytest.raises(FileNotFoundError):
        ultralytics.YOLO("yolo11n-pst.yaml")
    register()
    stock: Any = ultralytics.YOLO("yolo11n-pst.yaml")
    assert sum(p.numel() for p in stock.model.parameters()) == 2_617_232


def test_importing_the_adapter_registers_nothing() -> None:
    code = (
        "from ultralytics.nn import tasks; before = tasks.parse_model\n"
        "import pst.integrations.ultralytics\n"
        "assert tasks.parse_model is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_a_file_of_the_same_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = bundled_models()["yolo11-pst.yaml"].read_text().replace("nc: 80", "nc: 7")
    (tmp_path / "yolo11n-pst.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert YOLO("yolo11n-pst.yaml").model.yaml["nc"] == 7
    assert YOLO(tmp_path / "yolo11n-pst.yaml").model.yaml["nc"] == 7


def test_path_to_a_bundled_file_copied_elsewhere(tmp_path: Path) -> None:
    shutil.copy(bundled_models()["yolo11-pst.yaml"], tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("\n  s: [", "\n  # s: [").replace("\n  m: [", "\n  # m: ["))
    model = YOLO(tmp_path / "mine.yaml").model
    assert sum(p.numel() for p in model.parameters()) == 2_617_232


def test_unknown_name_is_the_hosts_own_error() -> None:
    with pytest.raises(FileNotFoundError, match="yolo11-nothing"):
        YOLO("yolo11-nothing.yaml")


@pytest.mark.parametrize("found", ["8.4.166", "8.5.0", "9.0.1"])
def test_other_versions_warn_once_with_the_range(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultralytics, "__version__", found)
    with pytest.warns(UserWarning, match=says(f"tested with ultralytics ≥ 8.4.167 and < 8.5, found {found}")):
        register()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()
