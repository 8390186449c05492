"""`pst val`: what it asks for, the table, JSON and CSV."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest

from pst.cli import main, val
from pst.cli._common import free_folder


class Row(NamedTuple):
    fusion: str
    topk: int
    map50_95: float
    map50: float
    latency_ms: float
    peak_memory_mb: float
    images: int


ROWS = [
    Row("none", 0, 0.534, 0.87654, 35.126, 812.25, 73),
    Row("gate", 8, 0.5, 0.86, 41.0, 1812.0, 73),
    Row("refine", 16, 1.0, 1.0, 1234.5, 123456.0, 73),
]
ARGV = ["val", "--model", "weights/best.pt", "--data", "data.yaml"]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Arguments of each call of a stand-in for the sweep, which yields `ROWS`; runs in an empty folder."""
    recorded: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def sweep(*args, **options):
        recorded.append((args, options))
        yield from ROWS

    module = ModuleType("plugin")
    vars(module)["sweep"] = sweep
    monkeypatch.setitem(sys.modules, "pst.integrations.ultralytics", module)
    monkeypatch.setattr("pst.cli.val.require", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return recorded


def test_defaults(calls):
    assert main(ARGV) == 0
    assert calls == [
        (
            (Path("weights/best.pt"), "data.yaml"),
            {
                "topk": [0, 4, 8, 16],
                "fusion": ["gate", "refine"],
                "max_tokens": None,
                "imgsz": None,
                "batch": 16,
                "device": None,
                "project": Path("runs/val") / f"{Path.cwd().name}-best",
                "trust": False,
            },
        )
    ]
    assert Path("runs/val", f"{Path.cwd().name}-best", "val.json").is_file()


def test_a_checkpoint_of_ultralytics_needs_its_data_named(calls, capsys):
    assert main(ARGV[:3]) == 2
    assert "no checkpoint at weights/best.pt" in capsys.readouterr().err
    Path("weights").mkdir()
    Path("weights/best.pt").touch()
    assert main(ARGV[:3]) == 2
    assert "--data is missing" in capsys.readouterr().err
    assert not calls


def test_options_are_handed_on(calls):
    options = "--topk 0,8 --fusion refine --max-tokens 16,all --imgsz 320 --batch 2 --device cpu --out here --trust"
    assert main([*ARGV, *options.split()]) == 0
    assert calls[0][1] == {
        "topk": [0, 8],
        "fusion": ["refine"],
        "max_tokens": [16, None],
        "imgsz": 320,
        "batch": 2,
        "device": "cpu",
        "project": Path("here"),
        "trust": True,
    }


@pytest.mark.usefixtures("calls")
def test_one_table_that_fits_a_terminal(capsys):
    main([*ARGV, "--out", "out"])
    *table, written, following = capsys.readouterr().out.splitlines()
    assert table == [
        "fusion   k  mAP50-95   mAP50  ms/image   peak MB",
        "------  --  --------  ------  --------  --------",
        "none     0    0.5340  0.8765     35.13     812.2",
        "gate     8    0.5000  0.8600     41.00    1812.0",
        "refine  16    1.0000  1.0000   1234.50  123456.0",
    ]
    assert all(len(line) <= 80 for line in table)
    assert written == f"Written: {Path('out/val.json')}, {Path('out/val.csv')}"
    assert following == f"Next: pst export --model {ARGV[ARGV.index('--model') + 1]}"


def test_bounds_and_operations_have_columns_where_there_are_any():
    bounds = (16, 16, None)
    rows = [row._asdict() | {"max_tokens": bound, "gflops": 1.5} for row, bound in zip(ROWS, bounds, strict=True)]
    table = val._table(rows).splitlines()
    assert table[0].split() == ["fusion", "k", "mAP50-95", "mAP50", "ms/image", "peak", "MB", "tokens", "GFLOPs"]
    assert [line.split()[-2:] for line in table[2:]] == [["16", "1.50"], ["16", "1.50"], ["all", "1.50"]]


@pytest.mark.usefixtures("calls")
def test_files_hold_every_row_and_where_it_was_measured():
    main([*ARGV, "--out", "out", "--topk", "0,8,16"])
    result = json.loads(Path("out/val.json").read_text())
    assert result["rows"] == [row._asdict() for row in ROWS]
    assert (result["model"], result["data"]) == ("weights/best.pt", "data.yaml")
    assert result["settings"]["topk"] == [0, 8, 16]
    assert result["hardware"]["threads"] >= 1
    assert set(result["versions"]) >= {"python", "pst", "torch"}
    assert "commit" in result
    with Path("out/val.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table == [{name: str(value) for name, value in row._asdict().items()} for row in ROWS]
    assert sorted(p.name for p in Path("out").iterdir()) == ["val.csv", "val.json"]  # no partial file is left


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/detect/a/weights/best.pt", "a-best"),
        ("runs/b/last.safetensors", "b-last"),
        ("runs/b", "b"),
        ("yolo11n-pst.pt", "yolo11n-pst"),
    ],
)
def test_results_are_named_after_the_training(model, name):
    assert free_folder(Path("out"), Path(model)) == Path("out", name)


@pytest.mark.usefixtures("calls")
def test_no_earlier_result_is_replaced_unless_its_folder_is_named():
    for _ in range(3):
        assert main(ARGV) == 0
    run = Path.cwd().name  # the folder around weights/
    assert sorted(path.name for path in Path("runs/val").iterdir()) == [f"{run}-best", f"{run}-best-2", f"{run}-best-3"]
    for _ in range(2):
        assert main([*ARGV, "--out", "out"]) == 0
    assert json.loads(Path("out/val.json").read_text())["model"] == "weights/best.pt"


@pytest.mark.usefixtures("calls")
def test_sizes_without_objects_have_no_figure(monkeypatch, capsys):
    row = SimpleNamespace(_asdict=lambda: {"fusion": "none", "topk": 0, "map_small": -1.0, "latency_ms": 1.0})
    monkeypatch.setattr(sys.modules["pst.integrations.ultralytics"], "sweep", lambda *_, **__: iter([row]))
    assert main(ARGV) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["none", "0", "–", "1.00"]


def test_an_interrupted_sweep_keeps_the_rows_it_has(calls, monkeypatch):
    def interrupted(*_, **__):
        yield ROWS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["pst.integrations.ultralytics"], "sweep", interrupted)
    assert main([*ARGV, "--out", "out"]) == 130
    assert [row["fusion"] for row in json.loads(Path("out/val.json").read_text())["rows"]] == ["none"]
    assert calls == []


def test_the_metrics_of_both_trainers_have_the_same_names(calls, capsys, monkeypatch):
    ours = {"fusion": "none", "topk": 0, "map": 0.5, "map50": 0.8, "map_small": 0.1}
    monkeypatch.setattr(f"{__name__}.ROWS", [SimpleNamespace(_asdict=lambda: ours)])
    assert main(ARGV) == 0
    assert capsys.readouterr().out.splitlines()[0].split(maxsplit=4) == [
        "fusion",
        "k",
        "mAP50-95",
        "mAP50",
        "mAP small",
    ]


def test_what_has_no_figure_is_null_and_a_dash(tmp_path):
    rows = [{"topk": 0, "fusion": "gate", "map": float("nan"), "map50": 0.5}]
    val._write(tmp_path, {"model": "m"}, rows)
    (row,) = json.loads((tmp_path / "val.json").read_text(), parse_constant=pytest.fail)["rows"]
    assert (row["map"], row["map50"]) == (None, 0.5)
    assert "–" in val._table(rows)


@pytest.mark.parametrize("option", ["--split", "--selection"])
def test_what_is_for_runs_is_refused_with_a_checkpoint_of_ultralytics(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("best.pt").touch()
    assert main(["val", "--model", "best.pt", "--data", "data.yaml", option, "train"]) == 2
    assert f"{option} is for runs of pst train, and best.pt is a checkpoint of Ultralytics" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["best.pt"]
