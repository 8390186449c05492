"""One picture through a model with k = 0 and another k, and the pictures that are drawn of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pst import PST
from pst.explore.explorer import Explorer, Session, Wanted
from pst.explore.models import PROPAGATION, Choice
from pst.explore.networks import Found, Network
from pst.explore.view import PINK, Asked, compute, duration, fusions_of, show


class Tiny(nn.Module):
    """A map of stride 4 fused with one of stride 8."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)
        self.fuse = PST(8, 16, 64, head_dim=16, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.stem(x)
        return self.fuse(fine, self.down(fine)).mean((2, 3))


class TinyNetwork(Network):
    calls = 0

    def __init__(self, **options) -> None:
        torch.manual_seed(0)
        super().__init__(Tiny(**options), 64, ["<b>cat</b>"])

    def forward(self, seen):
        self.calls += 1
        with torch.inference_mode():
            return self.module(seen.pixels[None].float() / 255)

    def find(self, seen):
        return Found(f"{self.forward(seen).sum():.9f}")


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 64, 3), dtype=np.uint8))


@pytest.fixture
def network():
    return TinyNetwork()


def test_both_k_are_run_and_timed(network):
    computed = compute(network, picture(), Asked(topk=5))
    assert set(computed.times) == {0, 5}
    assert computed.coarse != computed.fine
    assert list(computed.passes) == ["fuse.blocks.0.attn"]
    selection = computed.passes["fuse.blocks.0.attn"].selection
    assert selection is not None
    assert selection.index.shape == (1, 2, 5)
    alone = compute(network, picture(), Asked(topk=0))
    assert set(alone.times) == {0}
    assert alone.coarse == alone.fine == computed.coarse


def test_every_setting_reaches_the_layers(network):
    computed = compute(network, picture(), Asked(3, 4, "refine", "window"))
    settings = computed.passes["fuse.blocks.0.attn"].settings
    assert (settings.topk, settings.max_tokens, settings.fusion, settings.selection) == (3, 4, "refine", "window")


def test_fusions_are_those_that_the_layers_can_do(network):
    assert fusions_of(network) == ["gate", "refine"]
    assert fusions_of(TinyNetwork(fusion="refine")) == ["refine"]


def test_what_is_drawn_has_the_pictures_shape_and_says_how_it_was_timed(network):
    computed = compute(network, picture(), Asked(topk=5))
    shown = show(computed, Asked(topk=5), "fuse.blocks.0.attn", 1, None)
    assert [p and p.size for p in shown[:3]] == [(640, 320)] * 3
    assert shown.attention is None
    assert "measured here" in shown.captions[0]
    assert shown.captions[2] == f"5 of 64 coarse tokens (8×8) selected. {PINK}"
    clicked = show(computed, Asked(topk=5), "fuse.blocks.0.attn", 1, (0.5, 0.5))
    assert "row 4, column 8 (from 0) of 16×16" in clicked.captions[3]
    assert clicked.attention is not None
    assert clicked.attention.size == (640, 320)
    other = show(computed, Asked(topk=5), "fuse.blocks.0.attn", 0, (0.5, 0.5))
    assert np.any(np.asarray(other.attention) != np.asarray(clicked.attention))


def test_no_pink_is_explained_where_there_is_none(network):
    asked = Asked(topk=0)
    shown = show(compute(network, picture(), asked), asked, "fuse.blocks.0.attn", 0, None)
    assert shown.captions[2] == "k = 0 selects none of the 64 coarse tokens (8×8)."


def test_more_tokens_than_there_are_are_named_as_all(network):
    asked = Asked(topk=100)
    shown = show(compute(network, picture(), asked), asked, "fuse.blocks.0.attn", 0, None)
    assert shown.captions[2] == f"All 64 coarse tokens (8×8): there are no 100. {PINK}"


def test_a_model_without_pst_layers_is_refused():
    class Plain(TinyNetwork):
        def __init__(self) -> None:
            Network.__init__(self, nn.Conv2d(3, 3, 1), 64)

    with pytest.raises(ValueError, match="no PST layer"):
        Plain()


@pytest.mark.parametrize(("seconds", "text"), [(0.00523, "5.2 ms"), (0.3214, "321 ms"), (1.234, "1.23 s")])
def test_times_are_short(seconds, text):
    assert duration(seconds) == text


def explorer_of(network, path):
    explorer = Explorer([Choice("tiny", path), Choice(PROPAGATION, None)])
    explorer._loaded = "tiny", network
    return explorer


def test_a_session_keeps_what_was_computed(network, tmp_path):
    explorer, session = explorer_of(network, tmp_path / "tiny.pt"), Session()
    wanted = Wanted("tiny", Asked(topk=500), "", 7, 3)
    assert explorer.show(session, wanted).coarse is None
    picture().save(tmp_path / "a.png")
    explorer.drop(session, [tmp_path / "a.png"])
    first = explorer.show(session, wanted)
    assert session.controls is not None
    assert (session.controls.topk, session.controls.heads, session.controls.frames) == (64, 2, 1)
    calls = network.calls
    session.place = 0.2, 0.2
    clicked = explorer.show(session, wanted)
    assert network.calls == calls
    assert clicked.attention is not None
    assert clicked.captions[0] == first.captions[0]
    explorer.drop(session, [])
    assert session.clip is None
    assert session.place is None


def test_wishes_that_cannot_be_are_refused_in_a_sentence(network, tmp_path):
    explorer, session = explorer_of(network, tmp_path / "tiny.pt"), Session()
    with pytest.raises(ValueError, match="no model"):
        explorer.show(session, Wanted("../../etc/passwd", Asked(), "", 0, 0))
    picture().save(tmp_path / "a.png")
    explorer.drop(session, [tmp_path / "a.png"])
    with pytest.raises(ValueError, match="two images"):
        explorer.show(session, Wanted(PROPAGATION, Asked(), "", 0, 0))
    with pytest.raises(ValueError, match="mask"):
        explorer.drop(session, [tmp_path / "a.png"], tmp_path / "a.png")


def test_boxes_below_the_score_are_left_out(network):
    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 5, 5]])
    found = network.boxes(boxes, torch.tensor([0.9, 0.1]), torch.tensor([0, 4]))
    assert (found.boxes, found.tags, found.labels) == ([[0, 0, 9, 9]], ["<b>cat</b> 0.90"], [0])
    assert network.name_of(4) == "class 4"


def test_shares_are_of_the_picture_without_the_rest(network):
    mask = torch.zeros(64, 64, dtype=torch.int64)
    mask[32:] = 1
    assert network.shares(mask, (64, 32)).text == "<b>cat</b> 100%"
    assert isinstance(network.shares(mask, (64, 64)), Found)


def test_classes_of_pixels_are_named_inside_their_regions(network):
    mask = torch.zeros(64, 64, dtype=torch.int64)
    mask[:, 10:50] = 1  # between two parts of the other, whose middle is not a place of its own
    found = network.shares(mask, (64, 64))
    assert found.labels == [1, 0]
    assert found.tags == [network.name_of(1), network.name_of(0)]
    assert found.text.startswith(found.tags[0])
    for (x, y, *_), label in zip(found.boxes, found.labels, strict=True):
        assert mask[int(y), int(x)] == label
    assert found.boxes[0] == (29, 31, 29, 31)
