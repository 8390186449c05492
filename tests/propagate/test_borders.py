"""The last step alone: borders that are finer than the features, shares that stay shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pst.profile.memory import peak_memory
from pst.propagate import UNKNOWN, Propagator
from pst.propagate.borders import MOVED, Guide, Moved, best_labels, place_of, places
from tiny_clips import QUICK, agreement, moving, patches

EDGE = 37  # inside a position of 8 pixels


def halves(size: tuple[int, int] = (64, 80), edge: int = EDGE) -> tuple[Tensor, Tensor]:
    """A picture of two colours, and its mask."""
    mask = (torch.arange(size[1]) >= edge).to(torch.uint8).expand(size).contiguous()
    dark, light = torch.tensor([0.2, 0.3, 0.4]), torch.tensor([0.7, 0.5, 0.3])
    return torch.where(mask.bool(), light[:, None, None], dark[:, None, None]), mask


def shares_of(mask: Tensor, cells: tuple[int, int]) -> dict[int, Tensor]:
    labels = [v for v in mask.unique().tolist() if v != UNKNOWN]
    return {v: F.interpolate((mask == v).float()[None, None], cells, mode="area")[0, 0] for v in labels}


def still(cells: tuple[int, int]) -> Tensor:
    """Places of a picture in which nothing moved."""
    return places(cells, torch.zeros(1, 1, 1))[1:]


def nowhere(size: tuple[int, int], cells: tuple[int, int]) -> Moved:
    """A mask without a label."""
    return Moved(torch.full(size, UNKNOWN, dtype=torch.uint8), still(cells))


@pytest.mark.parametrize("edge", range(33, 40))
def test_colours_say_where_a_border_runs(edge: int):
    image, mask = halves(edge=edge)
    cells = 8, 10
    shares = shares_of(mask, cells)
    found, _ = best_labels(shares, Guide(image, cells), nowhere((64, 80), cells))
    assert (found == mask).all()


def test_a_pole_that_is_thinner_than_half_a_position_is_found():
    mask = torch.zeros(64, 80, dtype=torch.uint8)
    mask[:, 33:36] = 1
    image = torch.where(mask.bool(), 0.7, 0.3).expand(3, -1, -1)
    shares = shares_of(mask, (8, 10))
    assert shares[1].max() < 0.5  # so that resized shares alone never find it
    found, _ = best_labels(shares, Guide(image, (8, 10)), nowhere((64, 80), (8, 10)))
    assert (found == mask).all()


def test_a_frame_without_colours_gives_smooth_shares():
    share = torch.rand(8, 10, generator=torch.Generator().manual_seed(0))
    found = Guide(torch.full((3, 64, 80), 0.4), (8, 10)).enlarge(share)
    mean = share[None, None]
    for _ in range(2):
        mean = F.avg_pool2d(mean, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(found, F.interpolate(mean, (64, 80), mode="bilinear")[0, 0])


def test_a_guide_is_linear_and_keeps_what_is_the_same_everywhere():
    generator = torch.Generator().manual_seed(0)
    guide = Guide(torch.rand(3, 33, 47, generator=generator), (7, 9))
    one, other = torch.rand(2, 7, 9, generator=generator)
    torch.testing.assert_close(guide.enlarge(torch.full((7, 9), 0.3)), torch.full((33, 47), 0.3))
    torch.testing.assert_close(guide.enlarge(one + 2 * other), guide.enlarge(one) + 2 * guide.enlarge(other))


@pytest.mark.parametrize("shift", [0, 3, 8])
def test_a_mask_is_moved_by_pixels(shift: int):
    _, mask = halves()
    place = still((8, 10))
    place[1] -= shift / 80
    moved = Moved(mask, place)
    torch.testing.assert_close(moved.weight, torch.full((64, 80), MOVED))
    assert ((moved.share(1) > 0.5) == mask.roll(shift, 1).bool())[:, 8:].all()
    torch.testing.assert_close(moved.share(0) + moved.share(1), torch.ones(64, 80))


def test_a_moved_mask_counts_little_where_neighbours_come_from_anywhere():
    _, mask = halves((160, 160))
    place = still((40, 40))
    place[:, 10:20, 10:20] = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(0))
    weight = Moved(mask, place).weight
    assert weight[48:72, 48:72].mean() < 0.1 * MOVED
    torch.testing.assert_close(weight[100:], torch.full((60, 160), MOVED))


def test_the_place_is_that_in_the_first_frame():
    """However much of the attention goes to other frames."""
    there = places((3, 4), torch.zeros(1, 1, 1))
    torch.testing.assert_close(place_of(0.2 * there), there[1:])
    assert place_of(torch.zeros(3, 3, 4)).isfinite().all()


@pytest.mark.parametrize("size", [(64, 80), (61, 83), (5, 3), (1, 1)])
@pytest.mark.parametrize("cells", [(8, 10), (7, 9), (1, 1)])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_shares_with_the_unlabelled_sum_to_one(size: tuple[int, int], cells: tuple[int, int], unlabelled: bool):
    """Seen one by one: the share of a label, as the best, once the others are called unlabelled."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, *size, generator=generator)
    raw = torch.rand(3 + unlabelled, *cells, generator=generator) ** 4
    shares = dict(enumerate((raw / raw.sum(0))[:3]))
    mask = torch.randint(0, 3, size, generator=generator).to(torch.uint8)
    place = (still(cells) + 0.1 * torch.randn(2, *cells, generator=generator)).clamp(0, 1)
    labels, best = best_labels(shares, Guide(image, cells), Moved(mask, place))
    assert ((best > 0) & (best <= 1 + 1e-5)).all()
    assert (labels < 3).all()
    if not unlabelled:
        assert (best >= 1 / 3 - 1e-5).all()  # the largest of three that sum to one
    again = best_labels(shares, Guide(image, cells), Moved(mask, place))
    assert all(torch.equal(a, b) for a, b in zip((labels, best), again, strict=True))


def test_one_label_everywhere_is_sure():
    image, _ = halves((61, 83))
    shares = {7: torch.ones(7, 9)}
    labels, best = best_labels(
        shares, Guide(image, (7, 9)), Moved(torch.full((61, 83), 7).to(torch.uint8), still((7, 9)))
    )
    assert (labels == 7).all()
    torch.testing.assert_close(best, torch.ones(61, 83))


def test_where_nothing_is_labelled_there_is_no_label():
    image, _ = halves()
    labels, best = best_labels({1: torch.zeros(8, 10)}, Guide(image, (8, 10)), nowhere((64, 80), (8, 10)))
    assert (labels == UNKNOWN).all()
    assert (best == 0).all()


def test_a_propagator_s_borders_are_finer_than_its_features():
    """Positions of 8 pixels; the moved square's border is inside of them."""
    clip = moving(3, (128, 96))
    p = Propagator(lambda images: F.avg_pool2d(patches(images), 8), **{**QUICK, "size": 128, "scale": 60.0})
    p.add(clip.frames[0], clip.masks[0])
    found = p.step(clip.frames[1])
    assert agreement(found, clip.masks[1]) > 0.8
    assert p.confidence.max() <= 1 + 1e-5


def test_an_object_that_left_is_not_smeared_over_the_picture():
    clip = moving(1)
    p = Propagator(patches, **QUICK)
    p.add(clip.frames[0], clip.masks[0])
    gone = clip.frames[0].copy()
    gone[6:18, 4:16] = np.roll(clip.frames[0], 24, 1)[6:18, 4:16]
    found = p.step(gone)
    assert (found == 1).sum() < 0.25 * (clip.masks[0] == 1).sum()


def test_memory_does_not_grow_with_the_number_of_labels():
    """Labels are taken one by one: all 40 at once would be 160 MB."""
    size, cells = (1000, 1000), (50, 50)
    guide, moved = Guide(torch.rand(3, *size), cells), nowhere(size, cells)
    peaks = []
    for count in (4, 4, 40):
        shares = {label: torch.full(cells, 1 / count) for label in range(count)}
        with peak_memory() as peak:
            best_labels(shares, guide, moved)
        peaks.append(peak[0])
    assert peaks[2] - peaks[1] < 40


def test_the_confidence_counts_what_is_unlabelled():
    cells, size = (8, 10), (64, 80)
    share = torch.full(cells, 0.4)
    found, sure = best_labels({1: share}, Guide(torch.full((3, *size), 0.5), cells), nowhere(size, cells))
    assert (found == 1).all()
    assert sure.max() <= 0.4 + 1e-5  # the rest is unlabelled; of two labels it would be sure of neither either
