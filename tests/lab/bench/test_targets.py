"""Targets are judged by their worst figure, and the page says what the files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.__main__ import main
from lab.bench.speed_page import page_part, tables, targets_table
from lab.bench.targets import TARGETS, judge
from messages import says

ROOT = Path(__file__).resolve().parents[3]
RESULTS, PAGE = ROOT / "lab" / "results", ROOT / "docs" / "speed.md"


def ms(median: float) -> dict[str, float]:
    return {"median": median, "low": median * 0.9, "high": median * 1.1, "runs": 5}


def case(n: int, channels: int, topk: int, speedup: float, **more: Any) -> dict[str, Any]:
    times = {"pst_ms": ms(10.0), "textbook_ms": ms(10.0 * speedup), "speedup": speedup}
    return {"n": n, "channels": channels, "topk": topk, "share": 0.5, **times, **more}


def suite(name: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "suite": name, "created": "2026-01-01T00:00:00+00:00", "settings": {"device": "cpu"}, "commit": "abc",
        "roofline": {"matmul_gflops": 100.0, "exp_gops": 1.0, "copy_gbs": 10.0},
        "hardware": {"cpu": "a processor", "threads": 2, "gpus": []}, "versions": {"torch": "2.9"}, "records": records,
    }  # fmt: skip


@pytest.fixture
def suites() -> dict[str, dict[str, Any]]:
    module = [
        case(100, 32, 8, 0.765), case(6400, 32, 0, 5.0), case(6400, 64, 0, 2.25, op_ms=ms(8.0)),
        case(6400, 64, 8, 2.0), case(6400, 128, 0, 3.8, op_ms=ms(8.0)),
        case(25600, 64, 0, 6.0, pst_mb=50.0, textbook_mb=2000.0, op_share=0.8), case(25600, 64, 8, 7.0, share=0.25),
    ]  # fmt: skip
    models = [
        {"name": "yolo11n", "ms": ms(100.0), "ratio": 1.0},
        {"name": "yolo11n-pst k=0", "ms": ms(130.0), "ratio": 1.3, "least_ms": 64.52, "share": 0.5},
    ]
    return {"module": suite("module", module), "model": suite("model", models)}


def find(judged: list[dict[str, Any]], *words: str) -> dict[str, Any]:
    (record,) = (r for r in judged if all(word in r["what"] for word in words))
    return record


def test_the_worst_figure_is_judged(suites: dict[str, Any]) -> None:
    judged = judge(suites)
    speed = find(judged, "N = 6400", "k = 0", "attention", "speed")
    assert (speed["value"], speed["where"], speed["met"]) == (2.25, "N = 6400, C = 64, k = 0", False)
    assert speed["missed_by"] == pytest.approx(0.25)
    within_reach = find(judged, "PyTorch's own attention alone")
    assert (within_reach["value"], within_reach["bound"]) == (3.8, 4.0)  # the other is bound by PyTorch's attention
    memory = find(judged, "attention", "memory", "textbook")
    assert (memory["value"], memory["met"], memory["missed_by"]) == (0.025, True, None)
    small = find(judged, "N = 100 and 400")
    assert (small["value"], small["where"]) == (0.765, "N = 100, C = 32, k = 8")
    roofline = find(judged, "roofline")
    assert (roofline["value"], roofline["met"]) == (4.0, False)
    eager = find(judged, "YOLO11n-PST", "eager")
    assert eager["value"] == pytest.approx(1.3)
    assert eager["met"] is True


def test_what_was_not_measured_is_neither_met_nor_missed(suites: dict[str, Any]) -> None:
    judged = judge(suites)
    assert len(judged) == len(TARGETS)
    for words in (("YOLO11n-PST", "ONNX"), ("training", "speed"), ("k = 8 / k = 0",)):
        record = find(judged, *words)
        assert record["met"] is record["value"] is record["missed_by"] is None
    _, rows = targets_table(judged)
    assert {row[3] for row in rows} == {
        "yes",
        "not measured",
        "no, by 25 %",
        "no, by 10 %",
        "no, by 60 %",
        "no, by 5 %",
    }


def test_models_are_shown_with_their_least_time_where_it_is_known(suites: dict[str, Any]) -> None:
    ((header, rows),) = tables(suites["model"]).values()
    assert header == ("", "ms", "10-90 %", "ratio", "least ms", "share")
    assert [row[-2:] for row in rows] == [("–", "–"), ("64.5", "50 %")]


def test_tables_fit_a_terminal(suites: dict[str, Any]) -> None:
    for each in suites.values():
        for header, rows in tables(each).values():
            widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
            assert sum(widths) + 2 * (len(widths) - 1) <= 100
    header, rows = targets_table(judge(suites))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)][:-1]
    assert sum(widths) + 2 * (len(widths) - 1) <= 100


def test_commands_measure_judge_and_write_the_page(
    tmp_path: Path, suites: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed")
    monkeypatch.setattr("lab.bench.command._set_threads", lambda threads: None)
    monkeypatch.setattr("lab.bench.measure_suite", lambda name, plan: suites[name])
    out, page = tmp_path / "out", tmp_path / "speed.md"
    assert main(["bench", "targets", "--only", "module,model", "--out", str(out)]) == 0  # misses are not an error
    printed = capsys.readouterr().out
    assert re.search(says("missed … N = 100 and 400 … 0.77× … ≥ 0.85×"), printed)
    assert json.loads((out / "module.json").read_text("utf-8")) == suites["module"]
    assert json.loads((out / "targets.json").read_text("utf-8"))["targets"] == judge(suites)
    page.write_text("before\n<!-- figures: made by lab bench report -->\noutdated\n<!-- end of figures -->\nafter\n")
    for _ in range(2):  # writing again changes nothing
        assert main(["bench", "report", "--out", str(out), "--page", str(page)]) == 0
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "outdated" not in text
    assert page_part(judge(suites), suites, ["assets/speed-module.png"]) in text
    assert "Measured on: a processor, 2 threads." in text
    assert (tmp_path / "assets" / "speed-module.png").stat().st_size > 1000


def test_check_writes_nothing_and_a_miss_is_no_error(
    tmp_path: Path, suites: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lab.bench.command._set_threads", lambda threads: None)
    monkeypatch.setattr("lab.bench.measure_suite", lambda name, plan: suites[name])
    assert main(["bench", "check", "--only", "module"]) == 0
    assert "no, by 10 %" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "report", "--out", "nowhere"], "run python -m lab bench targets --out nowhere first"),
        (["bench", "targets", "--only", "module,nothing"], "no suite nothing"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as exit:  # argparse's own
        code = exit.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_the_page_says_what_the_committed_files_say() -> None:
    names = ("module", "train", "window", "bounded", "model", "export", "import")
    found = {name: json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in names}
    judged = json.loads((RESULTS / "targets.json").read_text("utf-8"))["targets"]
    assert judged == judge(found)
    plots = ["assets/speed-module.png", "assets/speed-train.png"]
    assert page_part(judged, found, plots) in PAGE.read_text("utf-8"), "run lab bench report --out lab/results"
    assert all((PAGE.parent / plot).is_file() for plot in plots)


@pytest.mark.parametrize("name", ["module.json", "module.png", "targets.json"])
def test_files_of_others_are_not_replaced(
    name: str,
    tmp_path: Path,
    suites: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed")
    monkeypatch.setattr("lab.bench.command._set_threads", lambda threads: None)
    monkeypatch.setattr("lab.bench.measure_suite", lambda suite, plan: suites[suite])
    command = ["bench", "targets", "--only", "module", "--out", str(tmp_path)]
    assert [main(command), main(command)] == [0, 0]  # one's own are
    (tmp_path / name).write_text('{"images": []}')
    assert main(command) == 2
    assert f"{name} is not of an earlier run" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == '{"images": []}'
