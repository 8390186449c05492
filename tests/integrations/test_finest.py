"""``finest``: one argument for the finest level, in every builder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from messages import says
from pst.integrations.segmentation import PSTSegmenter
from pst.integrations.timm import PSTFeatures
from pst.integrations.torchvision import faster_rcnn, fcos, mask_rcnn, pst_backbone, retinanet

NETWORK = "test_efficientnet"
IMAGES = torch.rand(1, 3, 64, 96)
NARROW = {"out_channels": 64}
DETECTORS: dict[str, Any] = {"retinanet": retinanet, "fcos": fcos, "faster_rcnn": faster_rcnn, "mask_rcnn": mask_rcnn}


@pytest.mark.parametrize("finest", [4, 8, 16])
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_has_levels_from_there_on(kind, finest):
    backbone: Any = DETECTORS[kind](NETWORK, 3, finest=finest, backbone_options=NARROW).backbone
    assert backbone.reductions[0] == finest
    maps = backbone(IMAGES)
    assert tuple(maps["0"].shape) == (1, 64, 64 // finest, 96 // finest)


def test_by_default_one_stage_detectors_start_at_8_and_two_stage_ones_at_4():
    starts = {kind: DETECTORS[kind](NETWORK, 3, backbone_options=NARROW).backbone.reductions[0] for kind in DETECTORS}
    assert starts == {"retinanet": 8, "fcos": 8, "faster_rcnn": 4, "mask_rcnn": 4}


@pytest.mark.parametrize("finest", [4, 8, 16])
def test_a_backbone_features_and_a_segmenter_too(finest):
    assert pst_backbone(NETWORK, finest=finest, out_channels=64).reductions[0] == finest
    features = PSTFeatures(NETWORK, finest=finest, out_channels=64)
    assert features.feature_info.reduction()[0] == finest
    assert features(IMAGES)[0].shape[2:] == (64 // finest, 96 // finest)
    segmenter = PSTSegmenter(NETWORK, classes=2, finest=finest, decoder_pyramid_channels=64).eval()
    assert segmenter.decoder(segmenter.encoder(IMAGES)).shape[2:] == (64 // finest, 96 // finest)
    assert segmenter(IMAGES).shape == (1, 2, 64, 96)


@pytest.mark.parametrize("finest", [3, 64, "4", True])
def test_another_level_is_refused(finest):
    for build in (pst_backbone, PSTFeatures, PSTSegmenter):
        with pytest.raises((TypeError, ValueError), match=says(f"finest … {finest!r}")):
            build(NETWORK, finest=finest)


def test_two_ways_of_saying_it_exclude_each_other():
    with pytest.raises(ValueError, match=says("finest … returned_layers")):
        pst_backbone(NETWORK, finest=4, returned_layers=(2, 3, 4))
    with pytest.raises(ValueError, match=says("finest … out_indices")):
        PSTFeatures(NETWORK, finest=4, out_indices=3)
