"""Published detectors: their sizes are those that were published, and PST's stand beside them."""

from __future__ import annotations

import pytest

from messages import says
from pst.integrations.transformers import PUBLISHED, measure

# millions of parameters, from the tables of the papers' repositories
MILLIONS = {
    "rtdetr_r18vd": 20,
    "rtdetr_r50vd": 42,
    "rtdetr_v2_r18vd": 20,
    "rtdetr_v2_r50vd": 42,
    "dfine-nano": 4,
    "dfine-small": 10,
    "dfine-medium": 19,
    "dfine-large": 31,
}


def test_every_model_has_a_published_size_to_compare_with():
    assert MILLIONS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", ["rtdetr_r18vd", "dfine-nano", "dfine-small"])
def test_parameters_are_the_published_ones(name):
    assert abs(measure(name).parameters / 1e6 - MILLIONS[name]) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_are_the_published_ones_of_all(name):
    assert abs(measure(name).parameters / 1e6 - MILLIONS[name]) < 0.9


def test_pst_changes_parameters_and_operations():
    plain, fused = measure("dfine-nano", (320, 320)), measure("pst_dfine-nano", (320, 320))
    deeper = measure("pst_dfine-nano", (320, 320), depth=2)
    assert (plain.name, fused.name) == ("dfine-nano", "pst_dfine-nano")
    assert plain.image_size == (320, 320)
    assert plain.parameters != fused.parameters < deeper.parameters
    assert plain.gflops != fused.gflops < deeper.gflops


@pytest.mark.parametrize("name", ["dfine", "pst_", "pst_resnet18"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=says(f"{name!r} … rtdetr_r18vd … dfine-large")):
        measure(name)
