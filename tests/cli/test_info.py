"""`pst info`: versions, hardware, extras."""

import re

import torch

import pst
from pst.cli import info, main
from pst.profile import environment


def test_prints_versions_hardware_and_extras(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^torch +{re.escape(torch.__version__.partition('+')[0])}", out, re.MULTILINE)
    assert re.search(rf"^pst +{re.escape(pst.__version__)}$", out, re.MULTILINE)
    assert re.search(rf"^threads +{torch.get_num_threads()}$", out, re.MULTILINE)
    assert re.search(r"^  ultralytics +(installed|missing)", out, re.MULTILINE)
    assert re.search(r"^pst_resnet50 +29,260,488 +25,557,032 +8\.71 +8\.18 +224x224$", out, re.MULTILINE)


def test_timm_prints_the_models_asked_for_next_to_the_plain_ones(capsys):
    assert main(["info", "--timm", "test_resnet", "pst_test_vit"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["timm", "model", "parameters", "plain", "GFLOPs", "plain", "px"]
    assert [row.split()[0] for row in rows] == ["pst_test_resnet", "pst_test_vit"]
    assert main(["info", "--timm", "resnet19"]) == 2
    assert "timm has no model 'resnet19'" in capsys.readouterr().err


def test_transformers_prints_the_detectors_asked_for_next_to_the_plain_ones(capsys):
    assert main(["info", "--transformers", "dfine-nano"]) == 0
    printed = capsys.readouterr()
    header, _, row = printed.out.splitlines()
    assert header.split() == ["transformers", "model", "parameters", "plain", "GFLOPs", "plain", "px"]
    assert row.split() == ["pst_dfine-nano", "3,705,837", "3,770,421", "7.34", "7.43", "640x640"]
    assert "fresh" not in printed.err
    assert main(["info", "--transformers", "detr"]) == 2
    assert "no sizes of 'detr' are known" in capsys.readouterr().err


def test_extras_are_those_of_the_package_and_missing_ones_are_named(monkeypatch):
    requires = [
        "torch>=2.4",
        "ultralytics<8.5,>=8.4; extra == 'ultralytics'",
        "onnx>=1.16; extra == 'export'",
        "onnxruntime>=1.18; extra == 'export'",
        "pyright[nodejs]>=1.1; extra == 'dev'",
        "pyramid-sparse-transformer[export,ultralytics]; extra == 'all'",
    ]
    monkeypatch.setattr(info.metadata, "requires", lambda _: requires)
    installed = {"ultralytics", "onnx"}
    monkeypatch.setattr(environment, "version_of", lambda name: "1.0" if name in installed else None)
    assert info.missing_packages() == {
        "ultralytics": set(),
        "export": {"onnxruntime"},
        "dev": {"pyright"},
        "all": {"onnxruntime"},
    }
