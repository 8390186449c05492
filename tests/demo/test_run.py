"""The demo end to end in its small form: what it leaves, and that no finished work is ever repeated."""

import json
import re
from pathlib import Path

import pytest

import pst
from pst.demo import run, stages
from pst.demo.remaining import Remaining
from pst.profile import environment

ROWS = ["coarse", *(f"{fusion}-k{k}" for fusion in ("gate", "refine") for k in (4, 8, 16))]


def read_lines(root: Path) -> list[str]:
    return (root / "train" / "results.csv").read_text().splitlines()


def modified(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_everything_is_there_at_the_end(finished):
    assert (finished.root / "report.html").is_file()
    assert sorted(path.stem for path in (finished.root / "rows").iterdir()) == sorted(ROWS)
    assert not (finished.root / "last.pt").exists()
    assert not list(finished.root.rglob("*.part"))


def test_an_interrupted_training_keeps_its_checkpoints_and_writes_no_report(finished):
    assert {"last.pt", "best.pt", "settings.json"} <= set(finished.interrupted)
    assert not {"trained.json", "report.html"} & set(finished.interrupted)


def test_the_resumed_training_repeats_no_epoch(finished):
    lines = read_lines(finished.root)
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "2"]
    assert lines[:2] == finished.interrupted["train/results.csv"].decode().splitlines()


def test_the_model_was_trained_with_coarse_attention_from_scratch(finished):
    from pst.integrations.ultralytics import YOLO

    yolo = YOLO(finished.root / "best.pt")
    layers = [module for module in yolo.modules() if isinstance(module, pst.PyramidSparseAttention)]
    assert [layer.topk for layer in layers] == [0, 0]
    arguments = (finished.root / "train" / "args.yaml").read_text()
    for line in ("pretrained: false", "fliplr: 0.0", "flipud: 0.0", "optimizer: AdamW", "seed: 0", "amp: false"):
        assert line in arguments


def test_the_rows_are_the_models_own_figures(finished):
    from pst.integrations.ultralytics import sweep

    saved = json.loads((finished.root / "rows" / "refine-k8.json").read_text())
    (row,) = sweep(
        finished.root / "best.pt",
        finished.arguments["data"],
        topk=[8],
        fusion=["refine"],
        imgsz=64,
        batch=4,
        device="cpu",
        project=finished.root.parent / "again",
    )
    assert (row.topk, row.fusion) == (saved["topk"], saved["fusion"]) == (8, "refine")
    assert (row.map50, row.map50_95) == pytest.approx((saved["map50"], saved["map50_95"]), abs=1e-6)


def test_the_report_holds_every_row_and_loads_nothing(finished):
    report = (finished.root / "report.html").read_text()
    assert report.count("<tr>") == 1 + len(ROWS)
    for name in ROWS:
        row = json.loads((finished.root / "rows" / f"{name}.json").read_text())
        assert f"<td>{row['latency_ms']:.1f}</td>" in report
    pictures = 2 + 2 * 3 + 3 * 3 + 5  # curves, 3 pairs, 3 × (2 heads of layer 11 and 1 of layer 14), the other view
    assert report.count('<img src="data:image/') == report.count("<img") == pictures
    assert "http" not in re.sub(r"base64,[^\"]+", "", report)
    assert re.search(r"layer 11, block 0, head 1.*layer 14, block 0, head 0", report, re.DOTALL)
    assert str(finished.arguments["data"]) in report
    assert f"torch {environment.version_of('torch')}" in report


def test_a_finished_demo_only_writes_its_report_anew(finished, monkeypatch):
    from pst.integrations import ultralytics

    monkeypatch.setattr(ultralytics, "sweep", lambda *_, **__: pytest.fail("a finished row was repeated"))
    monkeypatch.setattr(ultralytics.YOLO, "train", lambda *_, **__: pytest.fail("the training was repeated"))
    before = modified(finished.root)
    assert run(**finished.arguments) == finished.root / "report.html"
    after = modified(finished.root)
    assert {path.name for path in after if after[path] != before.get(path)} == {"report.html"}


def test_only_missing_rows_are_evaluated(finished, monkeypatch):
    from pst.integrations import ultralytics

    file = finished.root / "rows" / "gate-k16.json"
    kept = json.loads(file.read_text())
    file.unlink()
    calls = []
    real = ultralytics.sweep

    def count(*args, **options):
        calls.append((options["fusion"], options["topk"]))
        return real(*args, **options)

    monkeypatch.setattr(ultralytics, "sweep", count)
    run(**finished.arguments)
    assert calls == [(("gate",), [16])]
    assert json.loads(file.read_text())["map50"] == pytest.approx(kept["map50"], abs=1e-6)


def test_killed_between_the_last_epoch_and_the_mark_nothing_is_trained(finished, tmp_path, monkeypatch):
    """The checkpoint of the last whole epoch is there, the mark that training is over is not."""
    from pst.demo.settings import Settings
    from pst.demo.workspace import Workspace
    from pst.integrations import ultralytics

    workspace = Workspace(tmp_path)
    workspace.best.write_bytes(b"best")
    workspace.last.write_bytes(finished.interrupted["last.pt"])  # one whole epoch
    monkeypatch.setattr(ultralytics.YOLO, "train", lambda *_, **__: pytest.fail("the training was repeated"))
    settings = Settings(data=None, imgsz=64, epochs=1, batch=4, device="cpu", seed=0)
    stages.train(settings, finished.arguments["data"], workspace, Remaining(0, print), workers=0)
    assert workspace.trained.is_file()
    assert not workspace.last.exists()
    assert workspace.best.read_bytes() == b"best"


def test_other_settings_are_refused_by_name_and_nothing_is_touched(finished):
    before = modified(finished.root)
    with pytest.raises(ValueError, match=r"other settings \(epochs: 2 → 3\): pass --restart .* or another --out"):
        run(**{**finished.arguments, "epochs": 3})
    assert modified(finished.root) == before
