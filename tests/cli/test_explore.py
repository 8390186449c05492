"""`pst explore` serves what it was given, on this machine alone unless told otherwise."""

from __future__ import annotations

import re
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from messages import says
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
    vars(module)["served"] = stand_in
    monkeypatch.setitem(sys.modules, "pst.explore.server", module)
    monkeypatch.setattr("pst.cli._common.is_installed", lambda name: True)

    def stop(event: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Event.wait", stop)
    monkeypatch.chdir(tmp_path)
    return recorded


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_the_defaults_are_this_machine_and_propagation(served, capsys):
    assert main(["explore"]) == 0
    assert served == [(["propagation of labels"], {"host": "127.0.0.1", "port": None, "open_browser": True})]
    out, err = capsys.readouterr()
    assert "Open http://127.0.0.1:1/" in out
    assert out.endswith("Ended\n")  # Ctrl+C is its usual end
    assert err == ""
    assert "password" not in out


def test_what_is_given_is_handed_on(served, free_port, capsys, monkeypatch):
    port = str(free_port)
    Path("best.pt").touch()
    monkeypatch.setattr("pst.explore.explorer.load_model", lambda path: path)
    assert main(["explore", "best.pt", "--host", "0.0.0.0", "--port", port, "--no-browser"]) == 0
    names, options = served[0]
    assert names[0] == "best.pt"
    assert options == {"host": "0.0.0.0", "port": free_port, "open_browser": False}
    assert "no password" in capsys.readouterr().out


def test_a_missing_model_is_said_before_anything_is_served(served, capsys):
    assert main(["explore", "none.pt"]) == 2
    assert "no model at none.pt" in capsys.readouterr().err
    assert not served


def test_a_damaged_model_is_said_before_anything_is_served(served, capsys):
    Path("best.pt").write_bytes(b"no model")
    assert main(["explore", "best.pt"]) == 2
    assert "best.pt" in capsys.readouterr().err
    assert not served


def test_a_damaged_model_of_a_folder_is_left_to_the_page(served):
    Path("runs").mkdir()
    Path("runs/best.pt").write_bytes(b"no model")
    assert main(["explore", "runs"]) == 0
    assert served[0][0][0] == "runs/best.pt"


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--host", "256.1.1.1"], "256.1.1.1"), (["--port", "99999"], "99999"), (["--host", "192.0.2.1"], "192.0.2.1")],
)
def test_an_address_that_cannot_be_is_refused_at_once(argv, said, served, capsys):
    assert main(["explore", *argv]) == 2
    assert re.search(says(f"{said} … choose"), capsys.readouterr().err)
    assert not served


def test_a_port_that_is_taken_is_refused_at_once(served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["explore", "--port", str(taken.getsockname()[1])]) == 2
    assert "in use" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr("pst.cli._common.is_installed", lambda name: name != "gradio")
    assert main(["explore"]) == 2
    assert "gradio is not installed: pip install 'pyramid-sparse-transformer[explore]'" in capsys.readouterr().err
