"""The Triton kernels against float64: natively on a GPU, else in Triton's interpreter.

The interpreter is chosen when Triton is imported, so without a GPU `test_in_the_interpreter` runs this file once more,
in a process of its own. It has no bfloat16 products: those are tested on a GPU alone.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional import _dispatch, implementation_for
from pst.functional._dispatch import HEAD_WIDTHS
from pst.functional._rule import Selected, Tokens
from pst.functional._types import LinearGate
from pst.functional.selection import Window
from tensors import Attention

CUDA, INTERPRETED = torch.cuda.is_available(), os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if CUDA else "cpu"
kernels = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="needs a GPU; test_in_the_interpreter runs it here")
triton: Any = importlib.import_module("pst.functional._triton") if CUDA or INTERPRETED else None

TOLERANCE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of the norm; a few roundings each
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if CUDA else [])]
MODES = ("coarse", "coarse, biased", "gate", "gate, biased", "refine", "refine, biased")
modes = pytest.mark.parametrize("mode", MODES)


@pytest.mark.skipif(CUDA or INTERPRETED, reason="the tests below run in this process")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_in_the_interpreter(which):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-cov"]
    command += ["-m", which]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 15


class Case(NamedTuple):
    """Arguments of `attend`."""

    query: Tensor
    key: Tensor
    value: Tensor
    fine_key: Tensor | None
    fine_value: Tensor | None
    gate: LinearGate | None
    bias: Tensor | None
    scale: float

    @classmethod
    def random(cls, mode: str, dtype: torch.dtype, *, b=2, h=2, n=70 if CUDA else 35, m=37, t=12, d=16) -> Case:
        """Standard normal; half of the coarse tokens (refine) or a third of the fine ones (gate) are excluded."""

        def make(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()

        if mode.startswith("coarse"):
            t = 0
        fine = (None, None) if t == 0 else (make(b, h, t, d), make(b, h, t, d))
        gate = LinearGate(make(d, 2 * d), make(d)) if mode.startswith("gate") else None
        bias = None
        if mode.endswith("biased"):
            length, every = (t, 3) if gate is not None else (m + t, 2)
            bias = torch.randn(b, h, length, device=DEVICE)
            bias[..., : min(length, m) : every] = -math.inf
        return cls(make(b, h, n, d), make(b, h, m, d), make(b, h, m, d), *fine, gate, bias, d**-0.5)

    def __call__(self) -> Tensor:
        """Triton's answer."""
        return triton.attend(*self[:5], scale=self.scale, bias=self.bias, gate=self.gate)

    def double(self) -> Case:
        """The same numbers in float64, as leaves."""
        exact: Any = [
            None if t is None else t.detach().double().requires_grad_() for t in (*self[:5], *self.gate_tensors())
        ]
        gate = None if self.gate is None else LinearGate(*exact[5:])
        bias = None if self.bias is None else self.bias.double()
        return self._replace(**dict(zip(self._fields, exact[:5], strict=False)), gate=gate, bias=bias)

    def expected(self) -> Tensor:
        """The formulas: two softmaxes and a gate, or one softmax."""
        query, key, value, fine_key, fine_value, gate, bias, scale = self
        logits = query @ key.mT * scale
        if fine_key is None or fine_value is None:
            return (logits + (0 if bias is None else bias[:, :, None])).softmax(-1) @ value
        fine_logits = query @ fine_key.mT * scale
        if gate is None:
            joint = torch.cat([logits, fine_logits], -1) + (0 if bias is None else bias[:, :, None])
            return joint.softmax(-1) @ torch.cat([value, fine_value], 2)
        coarse = logits.softmax(-1) @ value
        fine = (fine_logits + (0 if bias is None else bias[:, :, None])).softmax(-1) @ fine_value
        g = F.linear(torch.cat([coarse, fine], -1), *gate).sigmoid()
        return g * fine + (1 - g) * coarse

    def leaves(self) -> list[Tensor]:
        """Everything that has a gradient."""
        return [t for t in (*self[:5], *self.gate_tensors()) if t is not None]

    def gate_tensors(self) -> tuple[Tensor, ...]:
        """Weight and bias of the gate, if there is one."""
        return () if self.gate is None else tuple(self.gate)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    error, size = (actual.double() - expected).norm().item(), expected.norm().item()
    assert error <= TOLERANCE[dtype] * max(size, 1), f"error {error:.1e} of {size:.1e}"


def check(case: Case) -> None:
    """Values with and without gradients, and every gradient."""
    dtype, exact = case.query.dtype, case.double()
    expected = exact.expected()
    with torch.no_grad():
        assert_close(case(), expected, dtype)
    out = case()
    assert_close(out, expected, dtype)
    upstream = torch.randn_like(out)
    gradients = torch.autograd.grad(out, case.leaves(), upstream)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, exact.leaves(), upstream.double()), strict=True):
        assert_close(actual, wanted, dtype)


@kernels
@modes
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(mode, dtype):
    check(Case.random(mode, dtype))


@kernels
@pytest.mark.parametrize("mode", ["gate, biased", "refine, biased"])
@pytest.mark.parametrize("width", [32, *(pytest.param(w, marks=pytest.mark.slow) for w in (64, 128))])
def test_every_head_width(mode, width):
    assert width in HEAD_WIDTHS
    check(Case.random(mode, torch.float32, b=1, h=1, n=40, m=20, t=8, d=width))


@kernels
@pytest.mark.parametrize("mode", MODES if CUDA else ("coarse, biased", "gate", "refine, biased"))
@pytest.mark.parametrize("sizes", [(1, 1, 1), (129, 65, 33), (600, 3, 130)], ids=str)
def test_sizes_of_less_and_more_than_a_tile(mode, sizes):
    n, m, t = sizes  # with 600 queries and few keys, several programs share one block of keys
    case = Case.random(mode, torch.float32, b=1, h=1, n=n, m=m, t=t)
    if case.bias is not None:  # with one token of each kind, the fine one stays
        case.bias[..., -1] = 0.5
    check(case)


@kernels
@pytest.mark.parametrize("mode", ["gate", "refine"])
def test_any_strides(mode):
    case = Case.random(mode, torch.float32, b=2, h=2, n=24, m=6, t=8)
    expected = case()
    token_major = case._replace(
        **{
            n: t.transpose(1, 2).contiguous().transpose(1, 2)
            for n, t in case._asdict().items()
            if n in Case._fields[:5]
        }
    )
    channel_major = token_major._replace(
        **{n: t.mT.contiguous().mT for n, t in case._asdict().items() if n in Case._fields[:5]}
    )
    both = torch.cat([case.key, case.value], -1)  # keys and values side by side, as the projection writes them
    joined = case._replace(key=both[..., :16], value=both[..., 16:])
    for other in (token_major, channel_major, joined):
        assert torch.equal(other(), expected)
        out = other()
        assert out.transpose(1, 2).is_contiguous()


@kernels
def test_all_coarse_tokens_replaced():
    """Refine with k = M: the first blocks of keys hold nothing that counts."""
    case = Case.random("refine, biased", torch.float32, m=130, t=20)
    assert case.bias is not None
    case.bias[..., :130] = -math.inf
    check_finite = case()
    alone = case._replace(key=case.fine_key, value=case.fine_value, fine_key=None, fine_value=None, bias=None)
    fine_bias = case.bias[..., 130:].double()
    exact = (alone.query.double() @ alone.key.double().mT * case.scale + fine_bias[:, :, None]).softmax(-1)
    assert_close(check_finite, exact @ alone.value.double(), torch.float32)
    gradients = torch.autograd.grad(check_finite.sum(), case.leaves())
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[1].count_nonzero() == 0
    assert gradients[2].count_nonzero() == 0


@kernels
@pytest.mark.parametrize("mode", ["gate", "refine"])
def test_logits_that_float16_cannot_hold(mode):
    case = Case.random(mode, torch.float16)
    case = case._replace(query=(case.query.detach() * 10000).clamp(-65504, 65504))
    assert (case.query.float() @ case.key.float().mT).abs().max() > 65504
    assert_close(case(), case.double().expected(), torch.float16)


@kernels
def test_nothing_is_saved_without_gradients():
    case = Case.random("gate", torch.float32)
    tensors = (*case[:5], *case.gate_tensors(), None, case.scale)
    sizes = [[t.numel() for t in torch.ops.pst.attend(*tensors, save)] for save in (False, True)]
    n = case.query.numel()
    assert sizes == [[n, 0, 0], [n, 2 * n, 2 * n // 16]]


@kernels
def test_log_sum_exp_is_that_of_the_logits():
    case = Case.random("coarse", torch.float32)
    lse = torch.ops.pst.attend(*case[:5], None, None, None, case.scale, True)[2]
    logits = case.query.double() @ case.key.double().mT * case.scale
    assert torch.allclose(lse[0].double() / triton.LOG2_E, logits.logsumexp(-1), atol=1e-5)


@kernels
@pytest.mark.parametrize("mode", ["coarse", "gate", "refine, biased"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_operator_is_well_formed(mode):
    """Schema, fake tensors, autograd registration, and tracing of forward and backward by AOT autograd."""
    case = Case.random(mode, torch.float32, b=1, h=1, n=20, m=6, t=4)
    args = (*case[:5], *(case.gate_tensors() or (None, None)), case.bias, case.scale, True)
    torch.library.opcheck(torch.ops.pst.attend.default, args)


@kernels
@pytest.mark.parametrize("mode", ["gate", "refine, biased"])
def test_compiles_whole(mode):
    case = Case.random(mode, torch.float32, n=20, m=6, t=4)
    compiled = torch.compile(lambda *t: triton.attend(*t, scale=case.scale, bias=case.bias, gate=case.gate),
                             backend="aot_eager", fullgraph=True)  # fmt: skip
    expected, actual = case(), compiled(*case[:5])
    assert torch.equal(actual, expected)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, case.leaves(), upstream)
    assert all(map(torch.equal, torch.autograd.grad(actual, case.leaves(), upstream), wanted))


@kernels
@pytest.mark.parametrize("fusion", ["gate", "refine"])
@pytest.mark.parametrize("sizes", [pytest.param(((8, 10), (4, 5)), marks=pytest.mark.slow), ((9, 7), (4, 6))], ids=str)
@pytest.mark.parametrize(
    ("topk", "selection"),
    [
        (0, "mean"),
        (3, "mean"),
        (1000, "mean"),
        (3, "window"),
        (5, "nucleus"),
        pytest.param(2, "query", marks=pytest.mark.slow),
    ],
)
def test_the_whole_operator_agrees_with_the_reference(fusion, sizes, topk, selection):
    options = {"topk": topk, "fusion": fusion, "selection": selection}
    a = Attention.random(*sizes, width=16, dtype=torch.float32, **options).map(lambda t: t.to(DEVICE))
    exact = a.to(torch.float64)(impl="reference")
    assert_close(a(impl="triton"), exact, torch.float32)
    if fusion == "gate":
        called = partial(F.linear, weight=a.weight, bias=a.bias)  # a gate that no kernel can look into
        assert_close(a(impl="triton", gate=called), exact, torch.float32)


@kernels
@pytest.mark.parametrize("fusion", ["gate", "refine"])
def test_queries_coarse_and_fine_tokens_may_be_of_three_maps(fusion):
    a = Attention.random((9, 7), (4, 6), width=16, dtype=torch.float32, topk=3, fusion=fusion, selection="window")
    a = a.with_(query=torch.randn(2, 2, 5, 6, 16)).map(lambda t: t.to(DEVICE))
    assert_close(a(impl="triton"), a.to(torch.float64)(impl="reference"), torch.float32)


@kernels
@pytest.mark.parametrize("fusion", ["gate", "refine"])
@pytest.mark.parametrize("selection", ["mean", "window"])
def test_coarse_tokens_may_be_bounded(fusion, selection):
    a = Attention.random((9, 7), (4, 6), width=16, dtype=torch.float32, topk=3, fusion=fusion, max_tokens=6)
    a = a.map(lambda t: t.to(DEVICE))
    exact = a.to(torch.float64)(impl="reference", selection=selection)
    assert_close(a(impl="triton", selection=selection), exact, torch.float32)


class First(NamedTuple):
    """A rule: the tokens of the lowest indices, for the whole map or for each block."""

    grid: tuple[int, int] | None

    def select(self, tokens: Tokens) -> Selected:
        """See `SelectionRule`."""
        blocks = () if self.grid is None else (math.prod(self.grid),)
        index = torch.arange(tokens.topk, device=tokens.query.device)
        return Selected(index.expand(*tokens.query.shape[:2], *blocks, -1).contiguous(), grid=self.grid)


@kernels
@pytest.mark.parametrize("grid", [None, (2, 2)])
@pytest.mark.parametrize("number", [math.nan, math.inf], ids=str)
def test_what_is_in_a_token_that_gives_way_goes_nowhere(number, grid):
    """Not into the result, nor into any gradient."""
    a = Attention.random((8, 8), (4, 4), width=16, dtype=torch.float32, topk=3, fusion="refine", selection=First(grid))
    a = a.map(lambda t: t.to(DEVICE))
    bad = a.with_(key=a.key.clone(), value=a.value.clone())
    for t in (bad.key, bad.value):
        t[:, :, 0, :3] = number
    results = (t.run_with_gradients(impl="triton") for t in (bad, a))
    for got, wanted in zip(*results, strict=True):
        assert torch.equal(got, wanted)
        assert got.isfinite().all()


@kernels
@pytest.mark.parametrize("fusion", ["gate", "refine"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_queries_have_the_gradients_of_the_reference(fusion, dtype):
    a = Attention.random((9, 7), (4, 6), width=16, dtype=dtype, topk=3, fusion=fusion, selection=Window(2))
    a = a.map(lambda t: t.to(DEVICE))
    exact = a.to(torch.float64).run_with_gradients(impl="reference")
    for got, wanted in zip(a.run_with_gradients(impl="triton"), exact, strict=True):
        assert_close(got, wanted, dtype)


ON_CPU = "Triton needs a CUDA GPU, and the query is on cpu"
by_hand = pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")


@by_hand
def test_auto_says_what_it_runs_on_the_cpu():
    assert implementation_for(torch.ones(1, 32), 9) == ("fused", ON_CPU)


@by_hand
def test_triton_by_name_is_refused_where_it_cannot_run():
    a = Attention.random(width=16, dtype=torch.float32)
    with pytest.raises(ValueError, match=f'^impl="triton" cannot run: {ON_CPU}. impl="auto" takes what can$'):
        a(impl="triton")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (torch.ones(1, 32, dtype=torch.float64), "the query is torch.float64"),
        (torch.ones(1, 24), "the query has 24"),
        (torch.ones(1, 32), None),
    ],
    ids=["dtype", "width", "fits"],
)
def test_refusals_and_preference_where_triton_runs(query, reason, monkeypatch):
    monkeypatch.setattr(_dispatch, "_INTERPRETED", True)
    monkeypatch.setattr(_dispatch, "_INSTALLED", True)
    if reason is not None:
        choice = implementation_for(query, 9, topk=8)
        assert choice.impl == "fused"
        assert choice.reason.endswith(reason)
        return
    monkeypatch.setattr(_dispatch, "FASTER", {case: {} for case in _dispatch.FASTER})
    assert implementation_for(query, 9, topk=8, fusion="refine").impl == "fused"
    monkeypatch.setitem(_dispatch.FASTER, ("refine", False), {torch.float32: 9})
    assert implementation_for(query, 9, topk=8, fusion="refine").impl == "triton"
    assert implementation_for(query, 8, topk=8, fusion="refine").impl == "fused"  # one query meets 8 tokens: 8 logits
    assert implementation_for(query.clone().requires_grad_(), 9, topk=8, fusion="refine").impl == "fused"
    assert implementation_for(query, 9, topk=8, fusion="gate").impl == "fused"
    assert implementation_for(query, 9, topk=0, fusion="refine").impl == "fused"
    monkeypatch.setattr(_dispatch, "_INSTALLED", False)
    assert implementation_for(query, 9) == ("fused", "Triton is not installed")


def test_compiled_programs_get_operators_of_pytorch(monkeypatch):
    monkeypatch.setattr(_dispatch, "refusal_of_triton", lambda query: None)
    monkeypatch.setattr(_dispatch, "FASTER", {case: {torch.float32: 1} for case in _dispatch.FASTER})
    query = torch.ones(1, 32)
    assert implementation_for(query, 9).impl == "triton"
    seen = []
    torch.compile(lambda t: seen.append(implementation_for(t, 9).impl), backend="eager", fullgraph=True)(query)
    assert seen == ["fused"]
