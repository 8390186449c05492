"""`pst doctor`: what works, and what to install for what."""

import re
import sys
from importlib import metadata
from typing import Any

from pst.cli import doctor, main
from pst.profile import environment

DEVELOPERS = {"bench", "docs", "dev", "all"}


def test_every_extra_for_users_is_looked_at():
    extras = metadata.metadata("pyramid-sparse-transformer").get_all("Provides-Extra") or []
    assert set(doctor.EXTRAS) == set(extras) - DEVELOPERS


def test_prints_versions_devices_and_extras(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", {"hub": doctor.EXTRAS["hub"]})
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^OMP_NUM_THREADS +3$", out, re.MULTILINE)
    assert re.search(r"^cpu +works, \S+ from the definition$", out, re.MULTILINE)
    assert re.search(r"^hub +save_pretrained, from_pretrained +works$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) < 100


def test_the_table_fits_a_narrow_terminal(capsys, monkeypatch):
    packages = {"ncnn", "nncf", "onnx", "onnxruntime", "onnxscript", "onnxslim", "openvino"}
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(doctor, "missing_packages", lambda: dict.fromkeys(doctor.EXTRAS, packages))
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out.partition("\nextra ")[2].splitlines()
    assert max(map(len, table)) <= 80
    assert all(sum(name in line for line in table) == len(doctor.EXTRAS) for name in ("onnxslim", "openvino"))


def test_a_layer_that_gives_other_numbers_fails(capsys, monkeypatch):
    from pst import functional

    attention = functional.pyramid_sparse_attention

    def wrong(*args: Any, impl: Any = "auto", **options: Any) -> Any:
        return attention(*args, impl=impl, **options) + (impl == "auto")

    monkeypatch.setattr(functional, "pyramid_sparse_attention", wrong)
    monkeypatch.setattr(doctor, "EXTRAS", {})
    assert main(["doctor"]) == 1
    assert "fails, 1 from the definition" in capsys.readouterr().out


def test_what_a_package_says_when_it_is_imported_is_not_shown(capsys, monkeypatch, tmp_path):
    (tmp_path / "chatty_package.py").write_text("print('hello')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "EXTRAS", {"viz": ("pictures", ("chatty_package",))})
    monkeypatch.setattr(doctor, "missing_packages", lambda: {"viz": set()})
    assert main(["doctor"]) == 0
    assert "hello" not in capsys.readouterr().out


def test_a_broken_package_is_told_from_one_that_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "broken_package", None)  # importing it raises ImportError
    monkeypatch.setattr(doctor, "EXTRAS", {"viz": ("pictures", ("broken_package",)), "export": ("files", ())})
    monkeypatch.setattr(doctor, "missing_packages", lambda: {"viz": set(), "export": {"onnx", "ncnn"}})
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^viz +pictures +fails: broken_package: ", out, re.MULTILINE)
    assert re.search(r"^export +files +lacks ncnn, onnx$", out, re.MULTILINE)
    assert "pip install 'pyramid-sparse-transformer[export]'" in out


def test_extras_are_those_of_the_package_and_missing_ones_are_named(monkeypatch):
    names = {"ultralytics", "onnx"}
    requires = [
        "torch>=2.4",
        "ultralytics<8.5,>=8.4; extra == 'ultralytics'",
        "onnx>=1.16; extra == 'export'",
        "onnxruntime>=1.18; extra == 'export'",
        "pyright[nodejs]>=1.1; extra == 'dev'",
        "pyramid-sparse-transformer[export,ultralytics]; extra == 'all'",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: requires)
    monkeypatch.setattr(environment, "version_of", lambda name: "1.0" if name in names else None)
    assert doctor.missing_packages() == {
        "ultralytics": set(),
        "export": {"onnxruntime"},
        "dev": {"pyright"},
        "all": {"onnxruntime"},
    }
