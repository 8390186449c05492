"""Which libraries are there, and which versions of a host fit."""

from __future__ import annotations

import re
import sys
from importlib import metadata

import pytest

from messages import says
from pst.backbones.versions import TRANSFORMERS
from pst.io.versions import Range, install_extra, is_installed

RANGE = Range("host", (5, 4), (6, 0))


def install(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(name: str) -> str:
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize("found", ["5.4.0", "5.24.0", "5.100.0.dev0", "5.10rc1"])
def test_versions_in_the_range_are_taken(found, monkeypatch):
    install(monkeypatch, found)
    RANGE.check("a test")


@pytest.mark.parametrize("found", ["4.57.1", "5.3.9", "6.0.0", "6.1.0.dev0", "nonsense"])
def test_another_version_is_refused_with_the_range(found, monkeypatch):
    install(monkeypatch, found)
    with pytest.raises(ImportError, match=says(f"a test needs host ≥ 5.4 and < 6.0 … found {found} … pip install")):
        RANGE.check("a test")


def test_none_is_refused_with_the_range(monkeypatch):
    install(monkeypatch, None)
    with pytest.raises(ImportError, match=says("a test needs host ≥ 5.4 and < 6.0 … not installed … [host]")) as error:
        RANGE.check("a test")
    assert error.value.name == "host"


def test_what_is_installed_here_is_in_the_range_of_the_adapters():
    pytest.importorskip("transformers")
    TRANSFORMERS.check("a test")


@pytest.mark.parametrize(
    ("found", "command"),
    [("/env/bin/pip", "pip"), ("/usr/bin/pip", "/env/bin/python -m pip"), (None, "/env/bin/python -m pip")],
)
def test_what_is_installed_goes_into_this_environment(found, command, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    monkeypatch.setattr("shutil.which", lambda _: found)
    assert install_extra("viz") == f"{command} install 'pyramid-sparse-transformer[viz]'"


def test_a_path_with_a_space_is_quoted_and_one_below_this_folder_short(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my env" / "bin" / "python"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert install_extra("viz").startswith(f"'{tmp_path}/my env/bin/python' -m pip install ")
    monkeypatch.chdir(tmp_path)
    assert install_extra("viz").startswith("'my env/bin/python' -m pip install ")


def test_the_ranges_are_those_that_are_installed():
    pytest.importorskip("ultralytics")
    pytest.importorskip("libreyolo")
    from pst.integrations.libreyolo.compat import LIBREYOLO
    from pst.integrations.ultralytics.compat import TESTED

    wanted = " ".join(metadata.requires("pyramid-sparse-transformer") or ())
    for range_ in (TRANSFORMERS, LIBREYOLO, TESTED):
        oldest, beyond = (".".join(map(str, version)) for version in (range_.oldest, range_.beyond))
        assert {f"<{beyond.removesuffix('.0')},>={oldest}"} == set(re.findall(rf"\b{range_.host}(<[\d.,<>=]+)", wanted))


def test_what_an_uninstall_leaves_behind_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "removed" / "__pycache__").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert [is_installed(name) for name in ("removed", "there", "absent", "json")] == [False, True, False, True]
