"""A level of stride 4 for Ultralytics' detectors: the host's own files are the measure."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ultralytics.nn import tasks

from messages import says
from pst.control import attention_layers
from pst.integrations.ultralytics import YOLO, pst_neck
from pst.integrations.ultralytics.finest import add_p2

pytestmark = pytest.mark.usefixtures("registered")


def rows_of(name: str) -> dict[str, Any]:
    d = tasks.yaml_model_load(name)
    assert d is not None
    return d


@pytest.mark.parametrize("host", ["yolo26", "yolov8"])
def test_the_added_rows_are_those_of_the_hosts_own_file(host):
    plain, own = rows_of(f"{host}n.yaml"), rows_of(f"{host}n-p2.yaml")
    before = copy.deepcopy(plain)
    added = add_p2(plain)
    assert added["backbone"] == own["backbone"]
    assert added["head"] == own["head"]
    assert plain == before


@pytest.mark.parametrize("name", ["yolo11n-pst-neck-p2.yaml", "yolo26n-pst-neck-p2.yaml"])
def test_a_name_with_p2_has_four_levels_and_three_fusions(name):
    model = YOLO(name)
    assert model.model.stride.tolist() == [4, 8, 16, 32]
    assert len(attention_layers(model)) >= 3
    assert [row[2] for row in rows_of(name)["head"]].count("PST") == 3


def test_without_it_nothing_changes():
    d = rows_of("yolo11n.yaml")
    assert pst_neck(d, finest=8) == pst_neck(d)


@pytest.mark.parametrize("host", ["yolo26n-cls.yaml", "yolo26n-sem.yaml", "rtdetr-l.yaml", "yolo26n-p2.yaml"])
def test_other_necks_are_refused(host):
    with pytest.raises(ValueError, match=says("stride 4 … stride 8")):
        pst_neck(rows_of(host), finest=4)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match=says("finest … 4 or 8 … 16")):
        pst_neck(rows_of("yolo11n.yaml"), finest=16)
