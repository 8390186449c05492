"""How OpenMP's threads wait under `pst`: what is set, and that the user's own variables win."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pst.cli._waiting import CHOSEN, DEFAULTS, wait_briefly

SHOW = f"import os; print({{n: os.environ[n] for n in {CHOSEN!r} if n in os.environ}})"
COMMAND = "import sys; from pst.cli import main; print('torch' in sys.modules)\ntry: main()\nexcept SystemExit: pass\n"


def shown(code: str, **variables: str) -> list[str]:
    """Lines that a fresh interpreter prints whose environment says nothing else about waiting."""
    own = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SHOW}", "--version"],
        env=own | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_command_sets_it_before_torch_is_loaded():
    loaded, *_, variables = shown(COMMAND)
    assert loaded == "False"
    assert variables == str(DEFAULTS)


@pytest.mark.parametrize("name", CHOSEN)
def test_the_users_own_variables_win(name):
    assert shown(COMMAND, **{name: "7"})[-1] == str({name: "7"})


def test_python_gets_nothing_set():
    assert shown("import pst; pst.PST") == ["{}"]
    assert shown("from pst.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass")[-1] == "{}"


def test_only_names_that_openmp_reads_are_set():
    environment: dict[str, str] = {"HOME": "/home/me"}
    wait_briefly(environment)
    assert environment == {"HOME": "/home/me", **DEFAULTS}
    assert set(DEFAULTS) <= set(CHOSEN)
