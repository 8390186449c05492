"""Each task on made data: what a killed run leaves is kept, and truths are true."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lab.two_maps import colour, homography, labels, matching, run_labels, run_trained, scales, trained
from lab.two_maps.frames import SIZE, Pair
from lab.two_maps.plan import Step
from lab.two_maps.rows import ROWS
from lab.two_maps.store import Store

STEPS = (Step("efficientnet-lite0", "val", 1, ("rival",)), Step("efficientnet-lite0", "val", 1 / 15, ("rival",), 9))


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_file(camvid, network, tmp_path, monkeypatch):
    chosen = {"efficientnet-lite0": 40.0, "efficientnet-lite0-raw": 20.0}
    monkeypatch.setattr(scales, "choose", lambda *_: chosen)
    run_labels.run(camvid, tmp_path / "whole", steps=STEPS)
    evaluate, calls = labels.evaluate, []

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(labels, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        run_labels.run(camvid, tmp_path / "parts", steps=STEPS)
    name = run_labels.file("efficientnet-lite0")
    assert len(json.loads((tmp_path / "parts" / name).read_text())["records"]) == 2
    run_labels.run(camvid, tmp_path / "parts", steps=STEPS)
    assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    done = len(calls)
    run_labels.run(camvid, tmp_path / "parts", steps=STEPS)
    assert len(calls) == done


def test_results_of_other_settings_are_refused(tmp_path):
    store = Store(tmp_path / "a.json", {"scale": 40, "row k0": {"topk": 0}})
    store.add("pair", {"k0": [1]})
    grown = Store(tmp_path / "a.json", {"scale": 40, "row all": {"topk": 9}})
    assert grown.settings["row k0"] == {"topk": 0}
    assert grown.lacks("pair", ["k0", "all"]) == ["all"]
    with pytest.raises(ValueError, match=r"a\.json was made with another scale: remove it"):
        Store(tmp_path / "a.json", {"scale": 20})


def test_a_frame_carried_to_itself_keeps_its_labels(camvid, network):
    from lab.two_maps import frames
    from lab.two_maps.networks import Memory

    draw = torch.Generator().manual_seed(0)
    places = torch.nn.functional.normalize(torch.randn(16, 88, 120, generator=draw), dim=0)
    memory = Memory(lambda _: places, lambda name: frames.image(camvid, name))
    pair = Pair("0016E5_07959", "0016E5_07959")
    rows = {name: ROWS[name] for name in ("k0", "all")}
    out = labels.evaluate(camvid, pair, {**rows, "copy": "", "flow": ""}, {True: memory}, {True: 200.0})
    total = sum(out["true"])
    right = {name: sum(out[name][:11]) / total for name in ("k0", "all", "copy")}
    assert right["copy"] == 1
    assert right["all"] > 0.98
    assert right["k0"] < right["all"]


def test_the_truth_of_a_shift_is_the_shift():
    shift = homography.translation(40, -24)
    here = homography.centres(3, 4, 4)
    assert here[:, 0, 0].tolist() == [1.5, 1.5]
    assert here[:, 2, 3].tolist() == [13.5, 9.5]
    np.testing.assert_allclose(homography.truth(shift, here), here - np.array([40, -24])[:, None, None])


def test_a_warped_view_shows_what_the_truth_says():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    picture = np.stack([x / 2, y / 2, 0 * x], 2).astype(np.uint8)  # each pixel says where it is
    matrix = homography.random_homography(np.random.default_rng(3), *SIZE)
    view = homography.warp(picture, matrix)
    points = homography.centres(*SIZE, 1)
    true = homography.truth(matrix, points)
    inside = (
        homography.visible(true, *SIZE) & (np.minimum(*true) > 2) & (true[0] < SIZE[1] - 3) & (true[1] < SIZE[0] - 3)
    )
    assert 0.2 < inside.mean() < 0.9
    assert np.abs(view[..., 0][inside] - true[0][inside] / 2).max() < 1.5
    assert np.abs(view[..., 1][inside] - true[1][inside] / 2).max() < 1.5


def test_places_of_a_photo_are_found_in_itself_and_a_shift_defeats_the_nearest_cells():
    draw = torch.Generator().manual_seed(0)
    maps = torch.nn.functional.normalize(torch.randn(16, 88, 120, generator=draw), dim=0)
    rows = {name: ROWS[name] for name in ("nearest", "all")}
    scales = dict.fromkeys(rows, 400.0)
    picture = np.zeros((*SIZE, 3), np.uint8)
    still = matching.evaluate(picture, homography.translation(0, 0), rows, lambda _: maps, scales)
    assert still["visible"] == 88 * 120
    assert still["all"][0] > 0.95 * still["visible"]
    shifted = iter([maps.roll(40, 2), maps])  # the view first: 160 pixels to the right
    moved = matching.evaluate(picture, homography.translation(160, 0), rows, lambda _: next(shifted), scales)
    assert moved["visible"] == 88 * 80
    assert moved["all"][0] > 0.95 * moved["visible"]
    assert moved["nearest"][2] < 0.2 * moved["visible"]


def test_colours_of_the_same_frame_have_no_error():
    frame = np.random.default_rng(0).integers(0, 255, (352, 480, 3)).astype(np.uint8)
    values = colour.small(colour.colours(frame))
    assert values.shape == (8, 88, 120)
    assert colour.errors(values, values) == [0, 0, 0]
    assert colour.errors(values + 0.1, values) == pytest.approx([0.01] * 3, rel=1e-3)
    assert (colour.grey(frame).std(2) == 0).all()


def test_training_lowers_the_loss_and_is_the_same_each_time():
    draw = torch.Generator().manual_seed(0)
    places = torch.nn.functional.normalize(torch.randn(24, 16, 24, generator=draw), dim=0)
    classes = torch.nn.functional.one_hot(torch.randint(3, (16, 24), generator=draw), 12).permute(2, 0, 1).float()
    pairs, whole = [Pair("a", "b")], ROWS["k0"]
    for recipe in trained.RECIPES:
        matcher, losses = trained.train(recipe, 0, pairs, lambda _: places, lambda _: classes, 12)
        again, same = trained.train(recipe, 0, pairs, lambda _: places, lambda _: classes, 12)
        assert losses == same
        assert torch.equal(matcher.weight, again.weight)
        torch.manual_seed(0)
        fresh = trained.Matcher(24)
        before, after = (trained.loss_of(m(whole, places, places, classes), classes) for m in (fresh, matcher))
        assert after < before


def test_trained_records_name_recipe_seed_and_pair(camvid, network, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SEEDS", (0,))
    monkeypatch.setattr(run_trained, "EVALUATIONS", (("test", 8),))
    monkeypatch.setattr(trained, "WIDTH", 16)
    run_trained.run(camvid, tmp_path, steps=2)
    records = json.loads((tmp_path / run_trained.FILE).read_text())["records"]
    assert set(records) == {
        name
        for recipe in (*trained.RECIPES, trained.UNTRAINED)
        for name in (f"{recipe}/0", f"{recipe}/0 test-1 0016E5_07959 0016E5_07989")
    }
    assert set(records["k=0/0 test-1 0016E5_07959 0016E5_07989"]) == {"true", "k0", "window-8", "all"}
