"""Augmentation of whole batches: the same as one image at a time, and boxes go where their pixels go."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from pst.train import augment

WHOLE = torch.tensor([[0.0, 0, 1, 1]])
NO, YES = torch.tensor([False]), torch.tensor([True])


def test_the_whole_image_stays_as_it_is():
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(augment.sample(x, WHOLE.double(), NO, 16, fill=0.5), x)
    torch.testing.assert_close(augment.sample(x, WHOLE.double(), YES, 16, fill=0.5), x.flip(3))


@pytest.mark.parametrize("flip", [False, True])
def test_a_window_of_whole_pixels_is_a_crop(flip):
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    window = torch.tensor([[4, 2, 12, 10]]) / 16
    expected = x[..., 2:10, 4:12]
    found = augment.sample(x, window, torch.tensor([flip]), 8, fill=0)
    torch.testing.assert_close(found, expected.flip(3) if flip else expected)


def test_a_window_that_is_enlarged_agrees_with_torchvision():
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    found = augment.sample(x, torch.tensor([[0.25, 0.25, 0.75, 0.75]]), NO, 32, fill=0)
    expected = tv.resize(x, [64, 64], antialias=False)[..., 16:48, 16:48]
    torch.testing.assert_close(found, expected)


def test_what_lies_outside_has_the_fill_and_masks_keep_their_values():
    mask = torch.randint(0, 5, (1, 1, 16, 16)).float()
    found = augment.sample(mask, torch.tensor([[-1.0, 0, 1, 2]]), NO, 32, mode="nearest", fill=255)
    assert torch.equal(found[..., :16, 16:], mask)
    assert (found[..., :16] == 255).all()
    assert (found[..., 16:, :] == 255).all()


def test_every_image_of_a_batch_has_its_own_window():
    x = torch.rand(3, 3, 16, 16)
    windows, flip = augment.crop_windows(3, 0.2), torch.tensor([True, False, True])
    batch = augment.sample(x, windows, flip, 8, fill=0)
    for i in range(3):
        torch.testing.assert_close(
            batch[i : i + 1], augment.sample(x[i : i + 1], windows[i : i + 1], flip[i : i + 1], 8, fill=0)
        )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("window", [(0, 0, 1, 1), (0.25, 0.125, 0.75, 0.625), (-0.5, -0.25, 1.5, 1.75)])
def test_boxes_go_where_their_pixels_go(window, flip):
    x = torch.zeros(1, 1, 32, 32)
    x[..., 12:16, 10:20] = 1
    moved = augment.move_boxes(torch.tensor([[10, 12, 20, 16]]) / 32, torch.tensor(window), flip, 64)
    found = augment.sample(x, torch.tensor([window]), torch.tensor([flip]), 64, mode="nearest", fill=0)[0, 0]
    rows, columns = found.nonzero(as_tuple=True)
    box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
    torch.testing.assert_close(moved[0], box, atol=1, rtol=0)


def test_windows_stay_within_their_limits():
    crops = augment.crop_windows(1000, 0.3)
    size = crops[:, 2:] - crops[:, :2]
    assert crops.min() >= 0
    assert crops.max() <= 1 + 1e-6
    assert (size.prod(1) <= 1 + 1e-6).all()
    assert size.prod(1).mean() == pytest.approx(0.6, abs=0.05)  # a little less than 0.65: some do not fit
    content = torch.tensor([[1.0, 0.75]]).expand(1000, 2)
    zooms = augment.zoom_windows(content, 2)
    edge = zooms[:, 2:] - zooms[:, :2]
    assert torch.equal(edge[:, 0].round(decimals=5), edge[:, 1].round(decimals=5))
    assert edge.min() >= 0.5 - 1e-5
    assert edge.max() <= 2 + 1e-5
    small = edge[:, 0] <= 0.75
    assert (zooms[small, 2:] <= content[small] + 1e-6).all()  # a window that fits lies on the picture
    assert (zooms[small, :2] >= -1e-6).all()


def test_jitter_keeps_the_range_and_zero_changes_nothing():
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(augment.jitter(x, 0), x)
    changed = augment.jitter(x, 0.5)
    assert 0 <= changed.min() < changed.max() <= 1
    grey = torch.rand(4, 1, 8, 8).expand(4, 3, 8, 8)
    found = augment.jitter(grey, 0.3)
    torch.testing.assert_close(found, found[:, :1].expand_as(found))  # grey stays grey


def test_brightness_and_contrast_have_factors_of_their_own():
    x = 0.4 + 0.2 * torch.rand(8, 1, 16, 16)  # far from 0 and 1
    changed = augment.jitter(x, 0.3)
    bright = (changed.mean((1, 2, 3)) / x.mean((1, 2, 3))).clamp(0.7 - 1e-3, 1.3 + 1e-3)
    contrast = changed.std((1, 2, 3)) / x.std((1, 2, 3)) / bright
    assert (contrast.clamp(0.7 - 1e-3, 1.3 + 1e-3) == contrast).all()
    assert abs(float(torch.corrcoef(torch.stack([bright, contrast]))[0, 1])) < 0.99
