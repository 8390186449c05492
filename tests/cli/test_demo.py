"""`pst demo` hands on exactly the options that were given."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from pst.cli import main


@pytest.fixture
def calls(monkeypatch):
    """Keyword arguments of each call of a stand-in for `pst.demo.run`."""
    recorded: list[dict[str, object]] = []

    def run(**options):
        recorded.append(options)
        return Path("runs/demo/report.html")

    module = ModuleType("pst.demo")
    vars(module)["run"] = run
    monkeypatch.setitem(sys.modules, "pst.demo", module)
    return recorded


def test_defaults_are_left_to_the_demo(calls, capsys):
    assert main(["demo"]) == 0
    assert calls == [{}]
    assert capsys.readouterr().out.startswith("Report: open runs/demo/report.html\nNext: pst explore")


def test_given_options_are_handed_on(calls):
    argv = "demo --data d.yaml --imgsz 320 --epochs 3 --batch 4 --out o --device cpu --workers 0 --seed 7 --restart"
    assert main(argv.split()) == 0
    assert calls == [
        {
            "data": Path("d.yaml"),
            "imgsz": 320,
            "epochs": 3,
            "batch": 4,
            "out": Path("o"),
            "device": "cpu",
            "workers": 0,
            "seed": 7,
            "restart": True,
        }
    ]


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr("pst.cli._common.find_spec", lambda name: None if name == "sklearn" else object())
    assert main(["demo"]) == 2
    assert "sklearn is not installed: pip install 'pyramid-sparse-transformer[demo]'" in capsys.readouterr().err
