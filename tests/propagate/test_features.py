"""The frozen network that frames are matched by, and its weights."""

from __future__ import annotations

import pytest
import timm
import torch

from messages import says
from pst.propagate import BackboneFeatures

IMAGES = torch.linspace(0, 1, 3 * 40 * 56).view(1, 3, 40, 56)
SMALL = {"name": "test_efficientnet", "reductions": (4, 8)}


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("test_efficientnet", pretrained=False).eval()


@pytest.mark.parametrize("kind", ["file", "path", "state dict"])
def test_weights_of_a_classifier(kind, classifier, tmp_path, caplog):
    path = tmp_path / "weights.pt"
    torch.save(classifier.state_dict(), path)
    given = {"file": str(path), "path": path, "state dict": classifier.state_dict()}[kind]
    features = BackboneFeatures(**SMALL, weights=given)
    with torch.no_grad():
        wanted = classifier.forward_intermediates((IMAGES - features.mean) / features.std, intermediates_only=True)
        found = list(features.body((IMAGES - features.mean) / features.std).values())
        assert features(IMAGES).shape == (1, sum(features.body.channels[-2:]), 10, 14)
    for level in found:
        assert any(level.shape == w.shape and torch.allclose(level, w, atol=1e-5) for w in wanted)
    assert not caplog.records  # nothing of the layers behind the last map, which matching has no use for


def test_weights_of_another_network_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "other.pt"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    with pytest.raises(ValueError, match=says("other.pt does not hold the weights … same network")) as caught:
        BackboneFeatures(**SMALL, weights=path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(classifier):
    state = dict(classifier.state_dict())
    name = next(iter(state))
    state[name] = torch.full_like(state[name], float("nan"))
    with pytest.raises(ValueError, match=says(f"the state dict of weights holds … NaN or infinite … {name}")):
        BackboneFeatures(**SMALL, weights=state)


def test_maps_that_the_network_has_not(classifier):
    with pytest.raises(ValueError, match=r"maps of reductions .* got \[3\]"):
        BackboneFeatures("test_efficientnet", weights=classifier.state_dict(), reductions=(3, 8))
