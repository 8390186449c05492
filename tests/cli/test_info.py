"""`pst info`: versions, hardware, sizes of models."""

import re

import pytest
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


def test_torchvision_prints_the_detectors_asked_for_next_to_those_with_an_fpn(capsys):
    assert main(["info", "--torchvision", "fcos_resnet18"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["torchvision", "model", "parameters", "plain", "GFLOPs", "plain", "px"]
    assert row.split() == ["pst_fcos_resnet18", "17,965,024", "19,303,072", "122.88", "124.62", "640x640"]
    assert main(["info", "--torchvision", "ssd_resnet18"]) == 2
    assert "give one of fcos, retinanet" in capsys.readouterr().err


def test_libreyolo_prints_the_detectors_asked_for_next_to_the_plain_ones(capsys):
    pytest.importorskip("libreyolo", reason="LibreYOLO is not installed")
    assert main(["info", "--libreyolo", "yolo9-t"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["LibreYOLO", "model", "parameters", "plain", "GFLOPs", "plain", "px"]
    assert row.split() == ["pst_yolo9-t", "1,881,192", "2,036,544", "8.17", "7.79", "640x640"]
    assert main(["info", "--libreyolo", "yolox-t"]) == 2
    assert "no sizes of 'yolox-t' are known" in capsys.readouterr().err
