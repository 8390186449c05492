"""`pst info`: versions, hardware, sizes of models."""

import re

import torch

import pst
from pst.cli import main


def test_prints_versions_and_hardware(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^torch +{re.escape(torch.__version__.partition('+')[0])}", out, re.MULTILINE)
    assert re.search(rf"^pst +{re.escape(pst.__version__)}$", out, re.MULTILINE)
    assert re.search(rf"^threads +{torch.get_num_threads()}$", out, re.MULTILINE)
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
