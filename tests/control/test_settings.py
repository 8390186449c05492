"""Switches on a finished model: k, fusion, and what was selected."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pst
from messages import says
from pst.control import attention_layers
from pst.modules import Settings


class Neck(nn.Module):
    """Two PST layers in a model that has other layers too: nested, and not the first to be registered."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.AvgPool2d(2, ceil_mode=True)
        self.levels = nn.ModuleDict(
            {
                "p4": pst.PST(8, 8, 32, expansion=0.5, head_dim=8, depth=2, **settings),
                "p3": pst.PST(8, 32, 16, expansion=0.5, head_dim=8, **settings),
            }
        )

    def forward(self, image):
        p3 = self.stem(image)
        p4 = self.pool(p3)
        return self.levels["p3"](p3, self.levels["p4"](p4, self.pool(p4)))


NAMES = ["levels.p4.blocks.0.attn", "levels.p4.blocks.1.attn", "levels.p3.blocks.0.attn"]


@pytest.fixture
def model():
    return Neck().eval()


@pytest.fixture
def image():
    return torch.randn(2, 3, 14, 12)


def ks(model: nn.Module) -> list[int]:
    return [layer.topk for layer in attention_layers(model).values()]


def test_layers_are_found_by_name_in_any_model(model):
    assert list(attention_layers(model)) == NAMES
    assert list(attention_layers(nn.Sequential(nn.ReLU(), model))) == [f"1.{name}" for name in NAMES]
    assert list(attention_layers(pst.PyramidSparseAttention(8, 1))) == [""]


def test_set_topk_reaches_every_layer(model, image):
    coarse = model(image)
    pst.set_topk(model, 8)
    assert ks(model) == [8, 8, 8]
    assert not torch.equal(model(image), coarse)
    pst.set_topk(model, 0)
    assert torch.equal(model(image), coarse)


def test_set_topk_takes_any_integer(model):
    k: Any = np.int32(4)
    pst.set_topk(model, k)
    assert ks(model) == [4, 4, 4]
    assert all(type(k) is int for k in ks(model))


def test_use_topk_gives_every_layer_its_own_k_back(model):
    layers = list(attention_layers(model).values())
    layers[0].topk, layers[1].topk = 3, 5
    with pst.use_topk(model, 8):
        assert ks(model) == [8, 8, 8]
        with pst.use_topk(model, 1):
            assert ks(model) == [1, 1, 1]
        assert ks(model) == [8, 8, 8]
    assert ks(model) == [3, 5, 0]


def test_use_topk_gives_k_back_after_an_exception(model):
    with pytest.raises(KeyError), pst.use_topk(model, 8):
        raise KeyError
    assert ks(model) == [0, 0, 0]


def test_set_fusion_reaches_every_layer(model, image):
    pst.set_topk(model, 8)
    gated = model(image)
    pst.set_fusion(model, "refine")
    assert [layer.fusion for layer in attention_layers(model).values()] == ["refine"] * 3
    assert not torch.equal(model(image), gated)
    pst.set_fusion(model, "gate")
    assert torch.equal(model(image), gated)


# -------------------------------------------------------------------------------------------------------- selection


def test_selections_are_recorded_by_layer(model, image):
    with pst.use_topk(model, 3), pst.record_selection(model) as selected:
        model(image)
        model(image[:1, :, :8, :8])
    assert list(selected) == NAMES
    # sizes: p3 is the image's, each level above half of that, rounded up
    expected = {
        "levels.p4.blocks.0.attn": [((2, 2, 3), (4, 3), (7, 6)), ((1, 2, 3), (2, 2), (4, 4))],
        "levels.p4.blocks.1.attn": [((2, 2, 3), (4, 3), (7, 6)), ((1, 2, 3), (2, 2), (4, 4))],
        "levels.p3.blocks.0.attn": [((2, 1, 3), (7, 6), (14, 12)), ((1, 1, 3), (4, 4), (8, 8))],
    }
    for name, records in selected.items():
        assert [(tuple(r.index.shape), r.coarse_size, r.fine_size) for r in records] == expected[name]
        for record in records:
            assert record.index.dtype == torch.int64
            assert record.index.min() >= 0
            assert record.index.max() < record.coarse_size[0] * record.coarse_size[1]
            assert all(len(set(row)) == 3 for row in record.index.flatten(0, 1).tolist())


def test_recorded_tokens_are_those_of_the_highest_mean_logit():
    layer = pst.PyramidSparseAttention(16, 2, topk=4).eval().double()
    x, upper = torch.randn(2, 16, 12, 10, dtype=torch.float64), torch.randn(2, 16, 6, 5, dtype=torch.float64)
    with pst.record_selection(layer) as selected:
        layer(x, upper)
    query = layer.q(x).unflatten(1, (2, 8)).flatten(3)
    key = layer.kv(upper).unflatten(1, (2, 2, 8))[:, :, 0].flatten(3)
    scores = torch.einsum("bhdn,bhdm->bhnm", query, key).mean(2)
    assert torch.equal(selected[""][0].index, scores.topk(4).indices)


def test_layers_without_refinement_record_nothing(model, image):
    next(iter(attention_layers(model).values())).topk = 2
    with pst.record_selection(model) as selected:
        model(image)
    assert [len(records) for records in selected.values()] == [1, 0, 0]


def test_recording_changes_no_result_and_ends_with_the_block(model, image):
    pst.set_topk(model, 3)
    expected = model(image)
    with pst.record_selection(model) as selected:
        assert torch.equal(model(image), expected)
    model(image)
    assert [len(records) for records in selected.values()] == [1, 1, 1]
    assert all(layer.observer is None for layer in attention_layers(model).values())


def test_recordings_may_nest_and_end_with_an_exception(model, image):
    pst.set_topk(model, 3)
    with pst.record_selection(model) as outer:
        with pst.record_selection(model) as inner:
            model(image)
        with pytest.raises(ValueError, match="x must be"), pst.record_selection(model):
            model.levels["p3"](image, image)
        model(image)
    assert [len(records) for records in inner.values()] == [1, 1, 1]
    assert [len(records) for records in outer.values()] == [2, 2, 2]  # those inside the inner block as well
    assert all(layer.observer is None for layer in attention_layers(model).values())


def test_copies_made_while_recording_are_recorded_until_it_ends(model, image):
    pst.set_topk(model, 3)
    with pst.record_selection(model) as selected:
        copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        copied(image)
        pickled(image)
    copied(image)
    assert [len(records) for records in selected.values()] == [1, 1, 1]


def test_options_are_set_together_and_the_others_stay(model):
    pst.set_options(model, topk=3, selection="window")
    pst.set_options(model, topk={"levels.p3": 5}, fusion="refine")
    found = [layer.settings for layer in attention_layers(model).values()]
    assert found == [Settings(k, "refine", "window") for k in (3, 3, 5)]


@pytest.mark.parametrize("wrong", [{"topk": -1}, {"fusion": "add"}, {"selection": "best"}, {"topk": [1, 2]}])
def test_of_several_options_none_is_set_where_one_is_wrong(model, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) if "topk" not in wrong else "k"):
        pst.set_options(model, **{"topk": 4, "fusion": "refine", "selection": "mass"} | wrong)
    assert {layer.settings for layer in attention_layers(model).values()} == {Settings()}


def test_an_option_that_layers_do_not_have_is_named_with_those_they_have(model):
    with pytest.raises(TypeError, match=r"no option k, rule: choose among aligned, fusion, max_tokens, selection"):
        pst.set_options(model, topk=4, k=8, rule="mass")
    assert ks(model) == [0, 0, 0]


# ----------------------------------------------------------------------------------------------------------- errors

CALLS = {
    "set_topk": lambda model: pst.set_topk(model, 8),
    "set_fusion": lambda model: pst.set_fusion(model, "refine"),
    "set_options": lambda model: pst.set_options(model, selection="mass"),
    "use_topk": lambda model: pst.use_topk(model, 8).__enter__(),
    "record_selection": lambda model: pst.record_selection(model).__enter__(),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
def test_what_is_no_module_is_refused(call):
    with pytest.raises(TypeError, match=says("Module … YOLO … got str")):
        call("yolo11n-pst.yaml")


@calls
def test_a_model_without_pst_layers_is_refused(call):
    with pytest.raises(ValueError, match=says("Sequential … no PST layer")):
        call(nn.Sequential(nn.ReLU()))


BAD_KS = {
    "negative": (-1, ValueError, "topk … got -1"),
    "float": (8.0, TypeError, "topk … integer … 8.0"),
    "bool": (True, TypeError, "topk … integer … True"),
    "none": (None, TypeError, "topk … integer … None"),
}


@pytest.mark.parametrize(("k", "kind", "text"), BAD_KS.values(), ids=BAD_KS)
def test_a_bad_k_is_refused_and_changes_nothing(model, k, kind, text):
    pst.set_topk(model, 2)
    with pytest.raises(kind, match=says(text)):
        pst.set_topk(model, k)
    with pytest.raises(kind, match=says(text)), pst.use_topk(model, k):
        pass
    assert ks(model) == [2, 2, 2]


def test_an_unknown_fusion_is_refused(model):
    with pytest.raises(ValueError, match=says("fusion … gate … refine … got 'add'")):
        pst.set_fusion(model, "add")  # pyright: ignore[reportArgumentType]


def test_a_gate_that_is_not_there_is_refused_and_changes_nothing():
    layers = (pst.PyramidSparseAttention(8, 1, fusion=fusion) for fusion in ("gate", "refine"))
    mixed = nn.Sequential(*layers)
    pst.set_fusion(mixed, "refine")
    with pytest.raises(ValueError, match=says("['1'] … refine … no gate")):
        pst.set_fusion(mixed, "gate")
    assert [layer.fusion for layer in attention_layers(mixed).values()] == ["refine", "refine"]
