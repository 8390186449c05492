"""Hardware, versions and commit, as they are written beside every result."""

import json
import subprocess
from pathlib import Path

import pytest

import pst
from pst.profile import environment


def test_environment_is_json_and_names_this_machine():
    facts = json.loads(json.dumps(environment.environment()))
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["cpu"]
    assert facts["versions"]["torch"] == environment.version_of("torch")
    assert environment.version_of("no-such-distribution") is None


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that the package believes to be run from."""
    module = tmp_path / "src" / "pst" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(pst, "__file__", str(module))
    return tmp_path


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_commit_is_the_checkouts_own_and_tells_of_changes(checkout):
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "one")
    head = git(checkout, "rev-parse", "HEAD")
    assert environment.commit() == head
    (checkout / "src" / "pst" / "__init__.py").write_text("changed")
    assert environment.commit() == f"{head}-dirty"


@pytest.mark.skipif(not (Path(__file__).parents[2] / ".git").exists(), reason="this is not a checkout")
def test_commit_is_found_where_the_module_really_is():
    assert git(Path(__file__).parent, "rev-parse", "HEAD") == str(environment.commit()).removesuffix("-dirty")


def test_commit_is_what_is_said_of_a_copy(monkeypatch):
    monkeypatch.setenv("PST_COMMIT", "abc")
    assert environment.commit() == "abc"


def test_commit_is_none_outside_a_checkout_of_ours(checkout):
    assert environment.commit() is None
    (checkout / "src" / ".git").mkdir()  # someone else's repository around an installed package
    assert environment.commit() is None


def test_processor_is_named_without_proc(monkeypatch):
    monkeypatch.setattr(environment.Path, "is_file", lambda _: False)
    assert environment.hardware()["cpu"] == (environment.platform.processor() or environment.platform.machine())


def test_commit_is_none_without_git(checkout, monkeypatch):
    git(checkout, "init")
    monkeypatch.setenv("PATH", "")
    assert environment.commit() is None
