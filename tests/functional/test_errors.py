"""Every refusal of the functional layer: its type, its text, and that nothing has been computed before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from messages import says
from pst.functional import pyramid_sparse_attention, select_tokens
from pst.functional.selection import Selected
from tensors import Attention, Watch


def arguments() -> dict:
    a = Attention.random((6, 8), (3, 4), width=4, dtype=torch.float32)
    fine, gate = (a.fine_key, a.fine_value), (a.weight, a.bias)
    return {"query": a.query, "key": a.key, "value": a.value, "fine": fine, "gate": gate, "topk": 2}


def zeros(*shape: int, **kind) -> torch.Tensor:
    return torch.zeros(shape, **kind)


SWAPPED = "fine {} … coarse (3, 4) … swapped"
MAP, COARSE = (2, 2, 6, 8, 4), (2, 2, 3, 4, 4)
BAD_ARGUMENTS = {
    "query without heads": (
        {"query": zeros(2, 6, 8, 4)},
        ValueError,
        "query … got … (2, 6, 8, 4)",
    ),
    "flat key": (
        {"key": zeros(2, 2, 12, 4)},
        ValueError,
        "key … got … (2, 2, 12, 4)",
    ),
    "key and value of two shapes": (
        {"value": zeros(2, 2, 3, 5, 4)},
        ValueError,
        "key … value … (2, 2, 3, 4, 4) … (2, 2, 3, 5, 4)",
    ),
    "batch": (
        {"query": zeros(3, 2, 6, 8, 4)},
        ValueError,
        "batch … query … 3 … 2",
    ),
    "heads": (
        {"query": zeros(2, 3, 6, 8, 4)},
        ValueError,
        "heads … 3 … 2",
    ),
    "head width": (
        {"query": zeros(2, 2, 6, 8, 5)},
        ValueError,
        "head width … 5 … 4",
    ),
    "empty query map": (
        {"query": zeros(2, 2, 0, 8, 4)},
        ValueError,
        "empty … (2, 2, 0, 8, 4)",
    ),
    "empty fine map": (
        {"fine": (zeros(2, 2, 0, 8, 4), zeros(2, 2, 0, 8, 4))},
        ValueError,
        "empty … (0, 8) … (3, 4)",
    ),
    "query lower than the coarse map, which is that of one pyramid": (
        {"query": zeros(2, 2, 2, 8, 4), "fine": None, "topk": 0},
        ValueError,
        SWAPPED.format("(2, 8)"),
    ),
    "empty coarse map": (
        {"key": zeros(2, 2, 3, 0, 4), "value": zeros(2, 2, 3, 0, 4)},
        ValueError,
        "empty … (6, 8) … (3, 0)",
    ),
    "fine map lower than the coarse one": (
        {"fine": (zeros(2, 2, 2, 8, 4), zeros(2, 2, 2, 8, 4))},
        ValueError,
        SWAPPED.format("(2, 8)"),
    ),
    "fine map narrower than the coarse one": (
        {"fine": (zeros(2, 2, 6, 3, 4), zeros(2, 2, 6, 3, 4))},
        ValueError,
        SWAPPED.format("(6, 3)"),
    ),
    "integers": (
        {"query": zeros(*MAP, dtype=torch.int64)},
        TypeError,
        "dtype … torch.int64 … torch.int64",
    ),
    "dtype": (
        {"key": zeros(*COARSE, dtype=torch.float64)},
        TypeError,
        "dtype … torch.float32 … torch.float64",
    ),
    "device": (
        {"value": zeros(*COARSE, device="meta")},
        ValueError,
        "value … meta … cpu",
    ),
    "no tensor": ({"key": None}, TypeError, "key … tensor … NoneType"),
    "8 bits": (
        {"query": zeros(*MAP, dtype=torch.float8_e4m3fn)},
        TypeError,
        (
            "query, key and value must share one float dtype of 16 bits or more, got torch.float8_e4m3fn and "
            "torch.float8_e4m3fn"
        ),
    ),
    "no width": (
        {"query": zeros(2, 2, 6, 8, 0), "key": zeros(2, 2, 3, 4, 0), "value": zeros(2, 2, 3, 4, 0)},
        ValueError,
        "head width … (2, 2, 6, 8, 0)",
    ),
    "text for a scale": ({"scale": "1"}, TypeError, "scale … number … '1'"),
    "infinite scale": ({"scale": float("inf")}, ValueError, "scale … finite … inf"),
    "generator": (
        {"generator": 0},
        TypeError,
        "generator … torch.Generator … got 0",
    ),
    "observer": ({"observer": []}, TypeError, "observer … function … []"),
    "one fine map": (
        {"fine": (zeros(*MAP),)},
        TypeError,
        "fine … (key, value) … function … tuple",
    ),
    "a gate's weight alone": (
        {"gate": zeros(4, 8)},
        TypeError,
        "gate … (weight, bias) … function … Tensor",
    ),
    "float k": ({"topk": 2.0}, TypeError, "topk … integer … 2.0"),
    "text k": ({"topk": "8"}, TypeError, "topk … integer … '8'"),
    "no k": ({"topk": None}, TypeError, "topk … integer … None"),
    "bool k": (
        {"topk": True},
        TypeError,
        "topk … integer … True",
    ),
    "negative k": ({"topk": -1}, ValueError, "topk … got -1"),
    "fusion": ({"fusion": "add"}, ValueError, "fusion … gate … refine … got 'add'"),
    "selection": (
        {"selection": "max"},
        ValueError,
        "selection … mean … got 'max'",
    ),
    "impl": ({"impl": "fast"}, ValueError, "impl … fused … got 'fast'"),
    "no fine tokens": (
        {"fine": None},
        ValueError,
        "topk=2 … fine=(key, value)",
    ),
    "no gate": (
        {"gate": None},
        ValueError,
        "gate … gate=(weight, bias) … refine",
    ),
    "shape of the fine keys": (
        {"fine": (zeros(2, 2, 6, 7, 4), zeros(*MAP))},
        ValueError,
        "fine key and value … one shape … (2, 2, 6, 7, 4) … (2, 2, 6, 8, 4)",
    ),
    "shape of the fine values": (
        {"fine": (zeros(*MAP), zeros(2, 2, 6, 8, 3))},
        ValueError,
        "fine value … (2, 2, height, width, 4) … got (2, 2, 6, 8, 3)",
    ),
    "dtype of the fine keys": (
        {"fine": (zeros(*MAP, dtype=torch.float16), zeros(*MAP))},
        TypeError,
        "fine key … torch.float16 … torch.float32",
    ),
    "device of the fine values": (
        {"fine": (zeros(*MAP), zeros(*MAP, device="meta"))},
        ValueError,
        "fine value … meta … cpu",
    ),
    "shape of the gate's weight": (
        {"gate": (zeros(4, 4), zeros(4))},
        ValueError,
        "gate … (4, 8) … (4,) … got (4, 4) … (4,)",
    ),
    "shape of the gate's bias": (
        {"gate": (zeros(4, 8), zeros(4, 1))},
        ValueError,
        "gate … (4, 8) … (4,) … got (4, 8) … (4, 1)",
    ),
    "dtype of the gate": (
        {"gate": (zeros(4, 8, dtype=torch.float64), zeros(4))},
        TypeError,
        "gate weight … torch.float64 … torch.float32",
    ),
    "device of the gate": (
        {"gate": (zeros(4, 8), zeros(4, device="meta"))},
        ValueError,
        "gate bias … meta … cpu",
    ),
}


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize(("change", "kind", "text"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused_before_any_work(change, kind, text, impl):
    bad = {"impl": impl} | arguments() | change
    with Watch() as watch, pytest.raises(kind, match=says(text)):
        pyramid_sparse_attention(**bad)
    assert watch.written == 0


def test_what_the_bad_arguments_start_from_is_good():
    assert pyramid_sparse_attention(**arguments()).isfinite().all()


@pytest.mark.parametrize("option", ["selection", "fusion"])
def test_options_are_checked_even_when_k_is_0(option):
    with pytest.raises(ValueError, match=f"{option} must be one of"):
        pyramid_sparse_attention(**(arguments() | {"topk": 0, option: "other"}))


def test_select_tokens_refuses_an_unknown_rule():
    with pytest.raises(ValueError, match=says("selection … mean … got 'max'")):
        select_tokens(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 3, 2), 1, scale=1.0, selection="max")


class Rule:
    """A user's rule that answers what it is told to."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def select(self, tokens: object) -> Any:
        return self.answer


WHOLE = torch.zeros(2, 2, 1, dtype=torch.int64)
BAD_CALLS = {
    "rule without an answer": ({"selection": Rule(None)}, TypeError, "Rule must return a Selected, got NoneType"),
    "float indices": (
        {"selection": Rule(Selected(WHOLE.float()))}, TypeError, "select by int64 indices, got torch.float32",
    ),
    "flat indices": ({"selection": Rule(Selected(WHOLE[0]))}, ValueError, "shape (2, 2, k) with k ≥ 1, got (2, 1)"),
    "no index": ({"selection": Rule(Selected(WHOLE[..., :0]))}, ValueError, "with k ≥ 1, got (2, 2, 0)"),
    "no blocks": ({"selection": Rule(Selected(WHOLE, grid=(1, 2)))}, ValueError, "shape (2, 2, 2, k)"),
    "valid": ({"selection": Rule(Selected(WHOLE, WHOLE))}, ValueError, "valid as bool of shape (2, 2, 1)"),
    "fine": ({"fine": lambda _: None}, TypeError, "what fine gives must be (key, value), two tensors, got NoneType"),
    "fine of another size": (
        {"fine": lambda index: (torch.zeros(2, 2, index.shape[2], 3),) * 2}, ValueError, "fine must give keys of shape",
    ),
    "fine of another dtype": (
        {"fine": lambda index: (torch.zeros(*index.shape, 4).double(),) * 2}, TypeError, "as keys is torch.float64",
    ),
    "gate without an answer": ({"gate": lambda _: None}, TypeError, "the gate must give a tensor, got NoneType"),
    "gate of one position": ({"gate": lambda t: t[:1, :1, :1, :4]}, ValueError, "the gate must give 4 channels for 8"),
}  # fmt: skip


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize(("change", "kind", "text"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_functions_that_answer_wrongly_are_refused(change, kind, text, impl):
    with pytest.raises(kind, match=says(text)):
        pyramid_sparse_attention(**({"impl": impl} | arguments() | change))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"topk": -1}, ValueError, "topk … got -1"),
        ({"topk": 0}, ValueError, "topk must be ≥ 1"),
        ({"selection": "window", "size": (3, 3)}, ValueError, "size hold N=4 positions"),
        ({"key": zeros(1, 1, 3, 3)}, ValueError, "the same but for N and M"),
        ({"query": None}, TypeError, "query … tensor … NoneType"),
        ({"scale": None, "generator": 1}, TypeError, "generator must be a torch.Generator"),
    ],
)
def test_select_tokens_refuses(change, kind, text):
    good = {"query": zeros(1, 1, 4, 2), "key": zeros(1, 1, 3, 2), "topk": 1, "scale": 1.0}
    with pytest.raises(kind, match=says(text)):
        select_tokens(**(good | change))
