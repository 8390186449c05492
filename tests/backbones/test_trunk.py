"""The trunk of a timm model: its maps, timm's own parameter names, and what is said of an unknown name."""

from __future__ import annotations

import pytest
import torch

timm = pytest.importorskip("timm")

from pst.backbones.timm import check_known  # noqa: E402
from pst.backbones.trunk import build_trunk, trunk_maps  # noqa: E402


@pytest.mark.parametrize(("indices", "rising"), [((-1, 1), [1, 4]), (2, [3, 4])])
def test_maps_are_those_that_were_asked_for_finest_first(indices, rising):
    trunk = build_trunk("test_resnet", indices, pretrained=False, in_chans=1)
    maps = trunk_maps(trunk.network.eval(), trunk.indices, torch.rand(1, 1, 64, 96))
    assert trunk.indices == rising
    for y, channels, reduction in zip(maps, trunk.levels.channels(), trunk.levels.reduction(), strict=True):
        assert y.shape == (1, channels, 64 // reduction, 96 // reduction)


def test_parameters_have_timms_names_without_the_classifier():
    names = set(build_trunk("test_resnet", 1, pretrained=False).network.state_dict())
    assert names == {name for name in timm.create_model("test_resnet").state_dict() if not name.startswith("fc.")}


def test_a_name_that_timm_does_not_have_is_answered_with_names_like_it():
    check_known("resnet18.a1_in1k")
    with pytest.raises(ValueError, match=r"timm has no model 'resnet19': names like it are .*resnet18"):
        build_trunk("resnet19", 2, pretrained=False)
    with pytest.raises(ValueError, match=r"timm has no model '': timm.list_models\('\*name\*'\) searches by name"):
        check_known("")
