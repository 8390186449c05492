"""Attention whose backward pass is shared among threads: the same numbers, in as many blocks as there are threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pst.functional import _attend
from pst.functional._attend import softmax_attention
from tensors import Attention, Watch, assert_close


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """Batch sizes that PyTorch's attention is given, on a machine of four threads, however few logits there are."""
    seen, attend = [], F.scaled_dot_product_attention
    monkeypatch.setattr(_attend, "SPLIT", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def watched(query, *args, **kwargs):
        seen.append(query.shape[0])
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    return seen


def arguments(batch: int, heads: int, queries: int, masked: bool) -> list[torch.Tensor]:
    shapes = [(batch, n, heads, 8) for n in (queries, 5, 5)]
    tensors = [torch.randn(s, dtype=torch.float64).transpose(1, 2).requires_grad_() for s in shapes]
    bias = torch.zeros(batch, heads, 5, dtype=torch.float64)
    bias[0, 0, 3] = float("-inf")
    return [*tensors, bias] if masked else tensors


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("batch", "heads", "queries", "given"),
    [
        (1, 1, 12, 4),
        (2, 1, 12, 4),
        (1, 2, 12, 2),
        (1, 3, 12, 2),
        (1, 1, 9, 3),
        (1, 1, 11, 1),
        (2, 2, 12, 2),
        (5, 1, 12, 5),
    ],
)
def test_blocks_of_queries_change_no_number(batch, heads, queries, given, masked, batches):
    tensors = arguments(batch, heads, queries, masked)
    actual = softmax_attention(*tensors, scale=0.3)
    assert batches == [given]  # batch · blocks, as many of these as divide the queries
    mask = tensors[3][:, :, None] if masked else 0
    expected = (tensors[0] @ tensors[1].transpose(2, 3) * 0.3 + mask).softmax(-1) @ tensors[2]
    assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    for a, e in zip(*(torch.autograd.grad(y, tensors[:3], cotangent) for y in (actual, expected)), strict=True):
        assert_close(a, e)


def test_without_gradients_nothing_is_split(batches):
    tensors = [t.detach() for t in arguments(1, 1, 12, masked=False)]
    softmax_attention(*tensors, scale=0.3)
    with torch.no_grad():
        softmax_attention(*(t.requires_grad_() for t in tensors), scale=0.3)
    assert batches == [1, 1]


def test_few_logits_are_not_split(batches, monkeypatch):
    monkeypatch.setattr(_attend, "SPLIT", 61)
    softmax_attention(*arguments(1, 1, 12, masked=False), scale=0.3)
    softmax_attention(*arguments(1, 1, 16, masked=False), scale=0.3)
    assert batches == [1, 4]


@pytest.mark.parametrize("options", [{"topk": 0}, {"topk": 3, "fusion": "refine"}, {"topk": 3}], ids=str)
def test_maps_of_any_strides_form_no_logits(options):
    """As they come from a permuted map of channels, whose last axis is not the fastest."""
    a = Attention.random((40, 40), (20, 20), batch=1, heads=1, width=16, dtype=torch.float32, **options)
    strided = a.map(lambda t: t if t.ndim < 5 else t.movedim(-1, 1).contiguous().movedim(1, -1))
    assert strided.query.stride(-1) != 1
    with torch.no_grad(), Watch() as watch:
        out = strided()
    assert watch.largest < 1600 * 400 / 4
    assert_close(out, a(), 1e-5)
