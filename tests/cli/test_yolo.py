"""`pst yolo` hands everything on to Ultralytics' own entry point, with the plugin registered."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pst.cli import main

PST = Path(sys.executable).with_name("pst")


@pytest.fixture
def host(monkeypatch):
    """Stand-ins for Ultralytics' entry point and our plugin; lists what happened, in order."""
    events: list[object] = []
    plugin, adapters_host = (ModuleType(n) for n in ("plugin", "host"))
    vars(adapters_host)["entrypoint"] = lambda: events.append(list(sys.argv))
    vars(plugin)["register"] = lambda: events.append("register")
    vars(plugin)["guard"] = SimpleNamespace(told=nullcontext, protected=lambda on: nullcontext(events.append(on)))
    monkeypatch.setitem(sys.modules, "pst.integrations.ultralytics", plugin)
    monkeypatch.setitem(sys.modules, "pst.integrations.ultralytics.host", adapters_host)
    monkeypatch.setattr("pst.cli.yolo.require", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    events.append(adapters_host)
    return events


@pytest.mark.parametrize(
    "rest",
    [
        ["detect", "train", "model=yolo11n-pst.yaml", "data=a b.yaml", "imgsz=640"],
        ["-v", "--debug", "val"],
        ["val", "yolo", "--", "x"],
    ],
)
def test_every_argument_reaches_the_host_untouched_after_registration(rest, host):
    assert main(["yolo", *rest]) == 0
    assert host[1:] == ["register", True, ["yolo", *rest]]


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"], ["help"]])
def test_its_help_begins_with_what_pst_adds(asked, host, capsys):
    assert main(["yolo", *asked]) == 0
    said = capsys.readouterr().out
    assert "yolo11n-pst-neck.yaml" in said
    assert "pst val" in said
    assert host[-1] == ["yolo", "help"]


def test_trust_is_ours_and_switches_the_protection_off(host):
    assert main(["yolo", "val", "--trust", "model=a.pt"]) == 0
    assert host[1:] == ["register", False, ["yolo", "val", "model=a.pt"]]


def test_the_list_that_the_host_kept_is_changed_in_place(host):
    kept = sys.argv
    main(["yolo", "checks"])
    assert kept == ["yolo", "checks"]
    assert len(host) == 4


def test_arguments_that_the_host_refuses_are_an_error_of_one_line(host, capsys):
    def refuse():
        raise SyntaxError("'imgz' is not a valid YOLO argument")

    vars(host[0])["entrypoint"] = refuse
    assert main(["yolo", "imgz=3"]) == 2
    assert capsys.readouterr().err == "pst: error: 'imgz' is not a valid YOLO argument\n"


def test_a_setting_of_pst_is_refused_with_the_command_that_takes_it(host, capsys):
    def refuse():
        raise SyntaxError("'topk' is not a valid YOLO argument.")

    vars(host[0])["entrypoint"] = refuse
    assert main(["yolo", "val", "topk=8"]) == 2
    assert "pst val --help" in capsys.readouterr().err


def test_the_installed_command_runs_the_host(tmp_path):
    env = {**os.environ, "YOLO_CONFIG_DIR": str(tmp_path)}
    result = subprocess.run([str(PST), "yolo", "cfg"], capture_output=True, text=True, env=env, timeout=900, check=True)
    assert "imgsz: 640" in result.stdout + result.stderr
