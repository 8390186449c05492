"""The Propagator alone: what is carried, what is remembered, what is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from messages import says
from pst.propagate import UNKNOWN, Propagator, Setting, with_place
from tiny_clips import QUICK, agreement, moving, patches, picture


def propagator(**setting) -> Propagator:
    return Propagator(features=patches, **{**QUICK, **setting})


@pytest.fixture(scope="module")
def clip():
    return moving()


def quarters(size=(48, 64)) -> np.ndarray:
    """Four labels."""
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 2 :] += 1
    mask[:, size[1] // 2 :] += 2
    return mask


@pytest.mark.parametrize("shift", [(0, 0), (0, 8), (-4, 4)])
def test_labels_move_with_a_moved_picture(shift):
    frame, mask = picture(0), quarters()
    p = propagator()
    p.add(frame, mask)
    moved = [np.roll(part, shift, (0, 1)) for part in (frame, mask)]
    found = p.step(moved[0])
    inside = np.s_[6:-6, 10:-10]  # what came from the other side has another place
    assert found.dtype == np.uint8
    assert (found[inside] == moved[1][inside]).mean() > 0.85  # patches of 3 pixels do not tell borders to the pixel
    assert p.confidence.shape == (48, 64)
    assert 0 <= p.confidence.min() <= p.confidence.max() <= 1.001


@pytest.mark.parametrize("kind", ["array", "tensor", "image"])
def test_frames_and_masks_of_every_kind(kind, clip):
    make = {"array": np.asarray, "tensor": torch.from_numpy, "image": Image.fromarray}[kind]
    p, q = propagator(), propagator()
    p.add(make(clip.frames[0]), make(clip.masks[0]))
    q.add(clip.frames[0], clip.masks[0].astype(np.int64))
    assert (p.step(make(clip.frames[1])) == q.step(clip.frames[1])).all()


def test_many_frames(clip):
    p = propagator()
    p.add(clip.frames[0], clip.masks[0])
    found = [p.step(frame) for frame in clip.frames[1:]]
    assert agreement(found[-1], clip.masks[-1]) > 0.75


def test_unlabelled_pixels_are_carried_as_unknown(clip):
    mask = clip.masks[0].copy()
    mask[:, :32] = UNKNOWN
    p = propagator(threshold=0.5)
    p.add(clip.frames[0], mask)
    found = p.step(clip.frames[0])
    assert (found[:, :28] == UNKNOWN).mean() > 0.9
    assert (found[:, 36:] != UNKNOWN).mean() > 0.9


def test_the_threshold_makes_the_unsure_unknown(clip):
    found = {}
    for threshold in (0.0, 0.6, 1.0):
        p = propagator(threshold=threshold)
        p.add(clip.frames[0], clip.masks[0])
        found[threshold] = p.step(clip.frames[5])
    unknown = {t: (mask == UNKNOWN).mean() for t, mask in found.items()}
    assert unknown[0.0] == 0
    assert unknown[0.0] < unknown[0.6] < unknown[1.0]
    known = found[0.6] != UNKNOWN
    assert (found[0.6][known] == found[0.0][known]).all()


def test_what_is_unknown_stays_so_in_the_frames_that_follow():
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = UNKNOWN
    p = propagator(threshold=0.5)
    p.add(picture(0), mask)
    for _ in range(4):
        found = p.step(picture(0))
        assert (found[:, :28] == UNKNOWN).mean() > 0.9


def test_values_are_carried(clip):
    where = np.stack(np.meshgrid(np.arange(64.0), np.arange(48.0)))
    p = propagator()
    p.add(picture(0), values=where)
    found = p.step(picture(0))
    assert found.shape == (2, 48, 64)
    assert found.dtype == np.float32
    assert np.median(np.abs(found - where)) < 1


def test_mask_and_points_together(clip):
    p = propagator()
    p.add(clip.frames[0], clip.masks[0], points=[clip.centre[0]])
    mask = p.step(clip.frames[1])
    assert agreement(mask, clip.masks[1]) > 0.8
    assert p.points.xy.shape == (1, 2)
    assert np.abs(p.points.xy[0] - clip.centre[1]).max() < 2
    assert 0 < p.points.confidence[0] <= 1


def test_points_alone_give_no_mask():
    given = [(1, 2), (30, 20), (63.5, 47.5)]
    p = propagator()
    p.add(picture(0), points=given)
    assert p.step(picture(0)) is None
    assert np.abs(p.points.xy - given).max() < 2


@pytest.mark.parametrize("memory", [0, 1, 3])
def test_memory_is_bounded(memory, clip):
    seen = []

    def counting(images):
        seen.append(len(images))
        return patches(images)

    p = Propagator(features=counting, **QUICK, memory=memory)
    p.add(clip.frames[0], clip.masks[0])
    for frame in clip.frames * 2:
        p.step(frame)
    assert len(p._last) == memory
    assert len(p._annotated) == 1
    assert seen == [1] * 21  # each frame's features are computed once


def test_a_later_annotation_may_bring_new_labels(clip):
    p = propagator(annotated=1, memory=0)
    p.add(clip.frames[0], np.zeros_like(clip.masks[0]))
    assert set(np.unique(p.step(clip.frames[1]))) == {0}
    p.add(clip.frames[2], clip.masks[2], index=2)
    assert agreement(p.step(clip.frames[3], index=3), clip.masks[3]) > 0.8


def test_backwards_by_number(clip):
    p = propagator()
    p.add(clip.frames[9], clip.masks[9], index=9)
    found = [p.step(clip.frames[i], index=i) for i in range(8, -1, -1)]
    assert agreement(found[-1], clip.masks[0]) > 0.7


@pytest.mark.parametrize("memory", [1, 2])
def test_a_restored_state_goes_on_bit_for_bit(memory, clip):
    """What resuming rests on."""
    p, q = propagator(memory=memory), propagator(memory=memory)
    for each in (p, q):
        each.add(clip.frames[0], clip.masks[0], points=[clip.centre[0]])
    for i in range(1, 4):
        p.step(clip.frames[i], index=i)
    state = p.state()
    assert [int(state[f"{n}.number"]) for n in range(memory)] == list(range(4 - memory, 4))
    q.restore(state, clip.frames)
    assert (p.step(clip.frames[4]) == q.step(clip.frames[4])).all()
    assert (p.confidence == q.confidence).all()
    assert (p.points.xy == q.points.xy).all()
    with pytest.raises(ValueError, match=says("no frame is annotated: call add(frame, mask) before restore")):
        propagator(memory=memory).restore(state, clip.frames)
    with pytest.raises(ValueError, match="damaged, or of another run"):
        q.restore(
            {name: t[..., :3] if "shares" in name else t for name, t in state.items()}, dict(enumerate(clip.frames))
        )


def test_features_of_annotated_frames_are_kept_for_those_in_use(clip):
    seen = []

    def counting(images):
        seen.append(len(images))
        return patches(images)

    p = Propagator(features=counting, **QUICK, annotated=2)
    for i in range(0, 8, 2):
        p.add(clip.frames[i], clip.masks[i], index=i)
    assert len(p._known) == 2
    before = len(seen)
    for i in (9, 8, 7):
        p.step(clip.frames[i], index=i)
    assert len(seen) == before + 3  # frames 4 and 6 were the last to be added
    p.step(clip.frames[1], index=1)
    assert len(seen) == before + 6


def test_what_is_unsure_stays_unsure(clip):
    """Last frames are remembered with the shares of their labels, not with the labels alone."""
    p = propagator(memory=1)
    p.add(clip.frames[0], clip.masks[0])
    p.step(clip.frames[1])
    shares = [t for name, t in p.state().items() if "shares" in name]
    assert torch.stack(shares).sum(0).max() < 1.01
    assert ((shares[0] > 0.1) & (shares[0] < 0.9)).any()


def test_a_mask_without_labels_is_refused(clip):
    with pytest.raises(ValueError, match="no label"):
        propagator().add(clip.frames[0], np.full_like(clip.masks[0], 255))


def test_every_annotated_frame_has_things_of_the_same_kinds(clip):
    p = propagator()
    p.add(clip.frames[0], clip.masks[0])
    with pytest.raises(ValueError, match="the first has a mask, this one values"):
        p.add(clip.frames[1], values=np.zeros((2, *clip.masks[0].shape)))
    p = propagator()
    p.add(clip.frames[0], values=np.zeros((2, *clip.masks[0].shape)))
    with pytest.raises(ValueError, match="as many channels of values: wanted 2, got 3"):
        p.add(clip.frames[1], values=np.zeros((3, *clip.masks[0].shape)))


def test_coarse_attention_alone_with_many_memories(clip):
    p = propagator(topk=0, ratio=2, memory=3)
    p.add(clip.frames[0], clip.masks[0])
    found = [p.step(frame) for frame in clip.frames[1:]]
    assert agreement(found[0], clip.masks[1]) > 0.5


def test_a_small_frame_is_enlarged_twice_at_most():
    seen = []

    def counting(images):
        seen.append(tuple(images.shape[2:]))
        return patches(images)

    p = Propagator(features=counting, size=960)
    p.add(np.zeros((40, 60, 3), np.uint8), np.ones((40, 60), np.uint8))
    assert seen == [(80, 120)]


@pytest.mark.parametrize(("height", "width"), [(40, 40), (36, 64), (36, 86)])
def test_no_far_place_is_as_near_as_a_near_one(height, width):
    """In pictures as wide as a cinema's: the likeness of places falls with their distance, and does not come back."""
    place = with_place(torch.zeros(1, height, width), 1.0)[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for at in ((0, 0), (height // 2, width // 3)):
        likeness = torch.einsum("chw,c->hw", place, place[:, at[0], at[1]])
        distance = torch.maximum((y - at[0]).abs(), (x - at[1]).abs()) / height
        assert likeness[distance > 0.3].max() < likeness[distance < 0.1].min()


def test_forget_leaves_the_annotated_frames(clip):
    p, q = propagator(), propagator()
    for each in (p, q):
        each.add(clip.frames[0], clip.masks[0])
    p.step(clip.frames[9], index=9)
    p.forget()
    assert (p.step(clip.frames[1], index=1) == q.step(clip.frames[1], index=1)).all()


def test_any_sizes():
    for size in ((1, 1), (3, 50), (37, 51)):
        p = propagator()
        frame = np.zeros((*size, 3), np.uint8)
        p.add(frame, np.ones(size, np.uint8))
        assert p.step(frame).shape == size


def test_many_labels():
    mask = np.arange(48 * 64).reshape(48, 64) // 13 % 255
    p = propagator()
    p.add(picture(0), mask)
    assert len(np.unique(p.step(picture(0)))) > 200


def test_it_says_what_threads_may_share():
    said = " ".join(str(inspect.getdoc(Propagator)).split())
    assert "One thread at a time" in said
    assert "share ``features``" in said


FRAME, MASK = picture(0), quarters()


@pytest.mark.parametrize(
    ("call", "kind", "parts"),
    [
        (lambda p: p.step(FRAME), ValueError, "no frame is annotated … add"),
        (lambda p: p.add(FRAME), ValueError, "mask, points or values"),
        (lambda p: p.add("a.png", MASK), TypeError, "a frame must be pixels, got the name 'a.png': open it"),
        (lambda p: p.add(FRAME, Path("m.png")), TypeError, "a mask must be pixels, got the name 'm.png': open it"),
        (lambda p: p.add(FRAME[..., 0], MASK), ValueError, "(height, width, 3) … (48, 64)"),
        (lambda p: p.add(FRAME / 255, MASK), TypeError, "uint8 … float64"),
        (lambda p: p.add(FRAME, MASK[1:]), ValueError, "64×47 … 64×48"),
        (lambda p: p.add(FRAME, MASK / 2), TypeError, "integers … float64"),
        (lambda p: p.add(FRAME, MASK + np.int64(300)), ValueError, "0 to 254 … 300 to 303"),
        (lambda p: p.add(FRAME, -1 - MASK.astype(int)), ValueError, "0 to 254 … -4"),
        (lambda p: p.add(FRAME, points=[1, 2]), ValueError, "(P, 2) … (2,)"),
        (lambda p: p.add(FRAME, points=[(np.nan, 2)]), ValueError, "in the picture"),
        (lambda p: p.add(FRAME, values=np.zeros((2, 4, 4))), ValueError, "(K, 48, 64) … (2, 4, 4)"),
        (lambda p: (p.add(FRAME, MASK), p.step(FRAME[1:])), ValueError, "64×48 … 64×47"),
        (lambda p: (p.add(FRAME, points=[(1, 2)]), p.add(FRAME, points=[(1, 2)] * 2)), ValueError, "wanted 1, got 2"),
        (lambda p: (p.add(FRAME, MASK, points=[(1, 2)]), p.add(FRAME, MASK)), ValueError, "points"),
        (lambda p: p.confidence, ValueError, "before the first step"),
        (lambda p: p.points, ValueError, "before the first step"),
    ],
)
def test_mistakes_are_one_sentence(call, kind, parts):
    with pytest.raises(kind, match=says(parts)) as caught:
        call(propagator())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ({"topk": -1}, "topk … 0 … -1"),
        ({"size": 8}, "size … 32 … 8"),
        ({"ratio": 0}, "ratio … 1 … 0"),
        ({"annotated": 0}, "annotated … 1 … 0"),
        ({"scale": float("nan")}, "scale … nan"),
        ({"memory": True}, "memory … True"),
        ({"topk": "8"}, "topk … '8'"),
        ({"threshold": 1.5}, "threshold … from 0 to 1 … 1.5"),
    ],
)
def test_settings_out_of_range(setting, parts):
    with pytest.raises(ValueError, match=says(parts)):
        Setting(**setting)


def test_an_unknown_setting():
    with pytest.raises(TypeError, match=says("no setting 'sizes': did you mean 'size'?")):
        Propagator(features=patches, sizes=8)
    with pytest.raises(TypeError, match=says("no setting 'rule': it has topk, size")):
        Propagator(features=patches, rule="mass")


BAD_SETTINGS = [
    ({"topk": 1.5}, "topk must be an integer"),
    ({"memory": float("inf")}, "memory must be an integer"),
    ({"memory": 10**20}, "memory must be an integer"),
    ({"grid": True}, "grid must be an integer"),
    ({"nearness": float("inf")}, "nearness must be a number"),
    ({"scale": float("nan")}, "scale must be a number"),
    ({"threshold": None}, "threshold must be a number from 0 to 1"),
]


@pytest.mark.parametrize(("setting", "text"), BAD_SETTINGS, ids=str)
def test_a_setting_out_of_range_is_named(setting, text):
    with pytest.raises(ValueError, match=text):
        Setting(**setting)
    numbers: Any = {"size": np.int64(96), "ratio": np.int32(4)}
    assert Setting(**numbers) == Setting(size=96, ratio=4)


BAD_ANNOTATIONS = [
    ({"points": [[-1.0, 5.0]]}, "must be in the picture of 64×48"),
    ({"points": [[1e9, 5.0]]}, "must be in the picture"),
    ({"points": [[float("nan"), 5.0]]}, "must be in the picture"),
    ({"points": np.ones((5000, 2))}, "P from 1 to 4096"),
    ({"values": np.zeros((0, 48, 64))}, "K ≥ 1"),
    ({"values": np.full((1, 48, 64), np.nan)}, "values must be finite"),
]


@pytest.mark.parametrize(("things", "text"), BAD_ANNOTATIONS, ids=lambda x: x if isinstance(x, str) else "")
def test_what_cannot_be_carried_is_refused(things, text, clip):
    with pytest.raises(ValueError, match=text):
        propagator().add(clip.frames[0], **things)


def test_features_that_are_no_numbers_are_refused(clip):
    p = Propagator(features=lambda images: patches(images) * torch.nan, **QUICK)
    with pytest.raises(ValueError, match="features of a frame hold NaN or infinity"):
        p.add(clip.frames[0], clip.masks[0])


def test_masks_and_values_are_both_to_be_had(clip):
    p = propagator()
    values = np.stack([clip.masks[0] == 1, clip.masks[0] == 2]).astype(np.float32)
    with pytest.raises(ValueError, match="no values before the first step"):
        _ = p.values
    p.add(clip.frames[0], clip.masks[0], values=values)
    mask = p.step(clip.frames[1])
    assert mask.dtype == np.uint8
    assert p.values.shape == values.shape
    assert (p.values[0][mask == 1] > p.values[1][mask == 1]).mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_and_half_features_change_no_dtype(dtype, clip):
    p = Propagator(features=lambda images: patches(images).to(dtype), **QUICK)
    with torch.autocast("cpu", torch.bfloat16):
        p.add(clip.frames[0], clip.masks[0])
        assert agreement(p.step(clip.frames[1]), clip.masks[1]) > 0.7
    assert p.confidence.dtype == np.float32


def test_no_graph_grows(clip):
    p = propagator()
    values = torch.rand(1, 48, 64, requires_grad=True)
    p.add(clip.frames[0], values=values, points=torch.tensor([[5.0, 6.0]], requires_grad=True))
    p.step(clip.frames[1])
    assert not any(t.requires_grad for t in p.state().values())


def test_a_frame_s_memory_is_nobody_else_s(clip):
    """A stream may fill one buffer again and again."""
    p, q = propagator(annotated=1, memory=0), propagator(annotated=1, memory=0)
    buffer = torch.from_numpy(clip.frames[0].copy())
    for each, frame in ((p, buffer), (q, clip.frames[0])):
        each.add(frame, clip.masks[0], index=0)
        each.add(clip.frames[9], clip.masks[9], index=9)  # the features of frame 0 are made again when wanted
    buffer.zero_()
    assert (p.step(clip.frames[1], index=1) == q.step(clip.frames[1], index=1)).all()
