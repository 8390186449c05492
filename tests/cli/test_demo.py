"""`pst demo` hands on exactly the options that were given."""

import inspect
import re
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
        return Path(options.get("out", "runs/demo")) / "report.html"

    module = ModuleType("pst.demo")
    vars(module)["run"] = run
    monkeypatch.setitem(sys.modules, "pst.demo", module)
    return recorded


def test_the_help_says_the_defaults(capsys):
    for library in ("jinja2", "matplotlib"):
        pytest.importorskip(library, reason="the demo extra is not installed")
    from pst.demo.pipeline import run

    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    defaults = {name: p.default for name, p in inspect.signature(run).parameters.items()}
    for name in ("imgsz", "epochs", "batch", "out", "device", "workers", "seed"):
        assert re.search(rf"--{name} [^-]*\({defaults[name]}[;)]", text), name


@pytest.mark.parametrize("inside", [True, False], ids=["in the checkout", "elsewhere"])
@pytest.mark.usefixtures("calls")
def test_without_gradio_the_last_line_says_what_to_install_first(monkeypatch, capsys, tmp_path, inside):
    checkout, elsewhere = tmp_path / "my checkout", tmp_path / "elsewhere"
    elsewhere.mkdir()
    checkout.mkdir()
    python = checkout / ".venv" / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("pst.cli.demo.is_installed", lambda _: False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.chdir(checkout if inside else elsewhere)
    assert main(["demo"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    pip = ".venv/bin/python -m pip" if inside else f"'{python}' -m pip"
    pst = ".venv/bin/pst" if inside else f"'{python.with_name('pst')}'"
    assert said.startswith(
        f"Next: {pip} install 'pyramid-sparse-transformer[explore]', then {pst} explore runs/demo/best.pt, to play"
    )


def test_defaults_are_left_to_the_demo(calls, monkeypatch, capsys):
    monkeypatch.setattr("pst.cli.demo.is_installed", lambda _: True)
    monkeypatch.setattr("shutil.which", lambda _: "/bin/pst")
    assert main(["demo"]) == 0
    assert calls == [{}]
    report, said = capsys.readouterr().out.splitlines()
    assert report == "Report: open runs/demo/report.html"
    assert said == (
        "Next: pst explore runs/demo/best.pt, to play with the model; "
        "pst demo --data data.yaml --out runs/mine, to train on your own images"
    )


@pytest.mark.usefixtures("calls")
def test_with_data_of_ones_own_the_last_line_leads_to_that_very_model(monkeypatch, capsys):
    monkeypatch.setattr("pst.cli.demo.is_installed", lambda _: True)
    monkeypatch.setattr("shutil.which", lambda _: "/bin/pst")
    assert main(["demo", "--data", "d.yaml", "--out", "runs/my own"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "Next: pst explore 'runs/my own/best.pt', to play with the model"


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
    monkeypatch.setattr("pst.cli._common.is_installed", lambda name: name != "sklearn")
    assert main(["demo"]) == 2
    assert "sklearn is not installed: pip install 'pyramid-sparse-transformer[demo]'" in capsys.readouterr().err
