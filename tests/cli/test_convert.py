"""`pst convert`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_files import Call, authors_checkpoint, authors_layers, save
from pst.cli import main
from pst.io.checkpoints import load_safetensors, save_safetensors


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO11n-PST as the authors' fork saves it."""
    from pst.integrations.ultralytics import YOLO

    model: Any = YOLO("yolo11n-pst.yaml").model
    model.names = {i: f"kind {i}" for i in range(80)}
    with pytest.MonkeyPatch.context() as patch:
        authors_layers(patch)
        return save(authors_checkpoint(model), tmp_path_factory.mktemp("authors") / "authors.pt")


def test_tells_what_it_converted(authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "a.safetensors"
    assert main(["convert", str(authors), str(target)]) == 0
    state, metadata = load_safetensors(target)
    numbers = sum(t.numel() for t in state.values())
    out = capsys.readouterr().out
    for part in ("yolo11n-pst.yaml", "detect", f"{numbers:,}", "80: kind 0, kind 1,", "8.3.105", str(target)):
        assert part in out
    assert "kind 79" not in out  # only the first few
    assert f"Next: pst export --model {target}" in out
    assert main(["val", "--model", str(target)]) == 2
    assert "not written by pst train, and does not say how" in capsys.readouterr().err
    assert metadata["model"] == "yolo11n-pst.yaml"


def test_origin_is_told_after_two_conversions_too(
    authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(authors), str(tmp_path / "a.pt")]) == 0
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]) == 0
    assert capsys.readouterr().out.count("PST authors' fork of ultralytics 8.3.105") == 2


def test_malicious_checkpoint_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, target = tmp_path / "bad.pt", tmp_path / "written"
    save({"model": Call(os.system, f'"{sys.executable}" -c "open({str(target)!r}, \'w\')"')}, bad)
    assert main(["convert", str(bad), str(tmp_path / "a.pt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pst: error: {bad} is not loaded: its pickle names {os.system.__module__}.system")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [bad]


def test_wrong_paths_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for src, dst, said in (
        ("a.pt", "b.onnx", "expected a .pt or .safetensors file"),
        ("a.pt", "b.pt", "no checkpoint at"),
    ):
        assert main(["convert", str(tmp_path / src), str(tmp_path / dst)]) == 2
        assert said in capsys.readouterr().err


def test_both_arguments_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "a.pt"])
    assert "DST" in capsys.readouterr().err


def test_a_run_of_pst_train_is_named_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_safetensors({"a": torch.zeros(1)}, tmp_path / "best.safetensors", {"pst_train": "{}"})
    assert main(["convert", str(tmp_path / "best.safetensors"), str(tmp_path / "a.pt")]) == 2
    assert "best.safetensors is of pst train" in capsys.readouterr().err
