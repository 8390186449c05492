"""`pst explore` serves what it was given, on this machine alone unless told otherwise."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from pst.cli import main


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Arguments of each call of a stand-in for `pst.explore.server.served`, which ends at once as by Ctrl+C."""
    recorded = []

    @contextmanager
    def stand_in(explorer, **options):
        recorded.append((list(explorer.choices), options))
        yield "http://127.0.0.1:1/"

    module = ModuleType("pst.explore.server")
    vars(module).update(served=stand_in, LOOPBACK=("127.0.0.1",))
    monkeypatch.setitem(sys.modules, "pst.explore.server", module)
    monkeypatch.setattr("pst.cli._common.find_spec", lambda name: object())

    def stop(event: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Event.wait", stop)
    monkeypatch.chdir(tmp_path)
    return recorded


def test_the_defaults_are_this_machine_and_propagation(served, capsys):
    assert main(["explore"]) == 130
    assert served == [(["propagation of labels"], {"host": "127.0.0.1", "port": None, "open_browser": True})]
    out = capsys.readouterr().out
    assert "Open http://127.0.0.1:1/" in out
    assert "password" not in out


def test_what_is_given_is_handed_on(served, capsys):
    Path("best.pt").touch()
    assert main(["explore", "best.pt", "--host", "0.0.0.0", "--port", "8000", "--no-browser"]) == 130
    names, options = served[0]
    assert names[0] == "best.pt"
    assert options == {"host": "0.0.0.0", "port": 8000, "open_browser": False}
    assert "no password" in capsys.readouterr().out


def test_a_missing_model_is_said_before_anything_is_served(served, capsys):
    assert main(["explore", "none.pt"]) == 2
    assert "no model at none.pt" in capsys.readouterr().err
    assert not served


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr("pst.cli._common.find_spec", lambda name: None if name == "gradio" else object())
    assert main(["explore"]) == 2
    assert "gradio is not installed: pip install 'pyramid-sparse-transformer[explore]'" in capsys.readouterr().err
