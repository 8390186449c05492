"""Pairs of frames by their names."""

from __future__ import annotations

import numpy as np
import pytest

from lab.two_maps import frames
from lab.two_maps.frames import Pair


def test_pairs_are_found_by_the_numbers_of_the_frames(camvid):
    assert frames.pairs(camvid, "test", 1)[-3:] == [
        Pair("Seq05VD_f00000", "Seq05VD_f00030"),
        Pair("Seq05VD_f00030", "Seq05VD_f00060"),
        Pair("Seq05VD_f00060", "Seq05VD_f00090"),
    ]
    near = frames.pairs(camvid, "val", 1 / 15)
    assert near[0] == ("0016E5_07959", "0016E5_07961")
    assert len(near) == 19  # the other drive has none
    assert len(frames.pairs(camvid, "val", 1)) == 5 + 3
    assert frames.pairs(camvid, "val", 1, 4) == frames.pairs(camvid, "val", 1)[::4]


def test_no_pair_crosses_drives(camvid):
    for seconds in (1 / 15, 1, 2):
        assert all(frames.drive(a) == frames.drive(b) for a, b in frames.pairs(camvid, "val", seconds))


def test_what_is_not_there_is_named(camvid):
    with pytest.raises(FileNotFoundError, match=r"no file .*other\.txt: give the folder of CamVid with --camvid"):
        frames.pairs(camvid, "other", 1)
    with pytest.raises(ValueError, match="no two frames that are 9 s apart"):
        frames.pairs(camvid, "val", 9)


def test_frames_and_masks_have_one_size_and_masks_keep_their_classes(camvid):
    name = "0016E5_07959"
    assert frames.image(camvid, name).shape == (352, 480, 3)
    mask = frames.mask(camvid, name)
    assert mask.shape == (352, 480)
    assert set(np.unique(mask)) == {0, 2, 255}
