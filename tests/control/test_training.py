"""Stochastic k, the gate alone, and the switches of control that go with them."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import pst
from battery import digest, filled
from messages import says
from pst.control import attention_layers
from pst.functional.selection import Nucleus, Selected, Tokens, Window
from tensors import assert_close


@pytest.fixture
def model() -> Any:
    return filled(pst.PST(8, 12, 32, head_dim=8, depth=2)).train()


@pytest.fixture
def maps():
    return torch.randn(2, 8, 12, 10), torch.randn(2, 12, 6, 5)


def drawn(model: nn.Module, maps: Any, passes: int) -> list[int]:
    """k of each of some passes: the same in every layer."""
    ks = []
    for _ in range(passes):
        with pst.record_selection(model) as selected:
            model(*maps)
        [k] = {records[0].index.shape[-1] if records else 0 for records in selected.values()}
        ks.append(k)
    return ks


# ------------------------------------------------------------------------------------------------------ stochastic k


def test_k_is_drawn_for_each_training_pass_with_the_given_shares(model):
    maps = torch.randn(1, 8, 4, 4), torch.randn(1, 12, 4, 4)
    with pst.stochastic_topk(model, (2, 3), share=0.5, generator=torch.Generator().manual_seed(0)):
        ks = drawn(model, maps, 120)
    counts = [ks.count(k) for k in (0, 2, 3)]
    assert sum(counts) == 120
    for count, share in zip(counts, (0.5, 0.25, 0.25), strict=True):
        assert abs(count - 120 * share) <= 4 * (120 * share * (1 - share)) ** 0.5


def test_shares_of_none_and_all_and_a_zero_among_the_choices(model, maps):
    with pst.stochastic_topk(model, (4,), share=0.0):
        assert set(drawn(model, maps, 5)) == {0}
    with pst.stochastic_topk(model, (4,), share=1.0):
        assert set(drawn(model, maps, 5)) == {4}
    with pst.stochastic_topk(model, (0, 4), share=1.0):
        assert set(drawn(model, maps, 20)) == {0, 4}


def test_the_generator_alone_decides(model, maps):
    runs = []
    for seed in (3, 3, 4):
        before = torch.get_rng_state()
        with pst.stochastic_topk(model, generator=torch.Generator().manual_seed(seed)):
            runs.append(drawn(model, maps, 12))
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0] == runs[1] != runs[2]


def test_eval_runs_with_the_layers_own_k_and_the_end_gives_it_back(model, maps):
    pst.set_topk(model, [3, 3])
    with pst.stochastic_topk(model, (5,), share=1.0):
        assert drawn(model, maps, 1) == [5]
        assert drawn(model.eval(), maps, 1) == [3]
        assert drawn(model.train(), maps, 1) == [5]
    assert drawn(model, maps, 1) == [3]
    handle = pst.stochastic_topk(model, (5,), share=1.0)
    model(*maps)
    handle.remove()
    handle.remove()
    assert drawn(model, maps, 1) == [3]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_draw_for_themselves(model, maps, copied):
    with pst.stochastic_topk(model, (5,), share=1.0, generator=torch.Generator()):
        model(*maps)
        other = copied(model)
        assert all(layer.drawn_topk is None for layer in attention_layers(other).values())
        assert drawn(other.eval(), maps, 1) == [0]
        assert drawn(other.train(), maps, 1) == [5]
    assert drawn(other, maps, 1) == [5]
    assert drawn(model, maps, 1) == [0]


def test_every_parameter_has_a_gradient_whatever_is_drawn(model, maps):
    with pst.stochastic_topk(model, (0, 4), share=1.0):
        for _ in range(6):
            model.zero_grad()
            model(*maps).sum().backward()
            assert all(p.grad is not None for p in model.parameters())


# -------------------------------------------------------------------------------------------- bounds drawn at random


def test_a_training_pass_is_one_with_the_drawn_bound(maps):
    """Bound by bound, against the same layer set to it; None among the choices is all tokens."""
    model = filled(pst.PST(8, 12, 16, head_dim=4)).train()
    expected = {}
    for bound in (1, 4, None):
        with pst.use_max_tokens(model, bound):
            expected[bound] = model(*maps)
    assert not torch.allclose(expected[1], expected[4])
    seen = []
    with pst.stochastic_max_tokens(model, (1, 4, None), generator=torch.Generator().manual_seed(0)):
        for _ in range(40):
            out = model(*maps)
            seen.append(next(bound for bound, want in expected.items() if torch.equal(out, want)))
        in_eval = model.eval()(*maps)
    assert torch.equal(in_eval, model(*maps))
    assert all(5 <= seen.count(bound) <= 22 for bound in expected)  # of 40, a third each
    assert torch.equal(model.train()(*maps), expected[None])


def test_passes_that_do_not_draw_have_all_tokens(model, maps):
    pst.set_max_tokens(model, 4)
    with pst.stochastic_max_tokens(model, (1,), share=0.0):
        model(*maps)
        drawn_bounds = {layer.drawn_max_tokens for layer in attention_layers(model).values()}
    assert all(bound is not None and bound > 16 for bound in drawn_bounds)
    assert {layer.drawn_max_tokens for layer in attention_layers(model).values()} == {None}


def test_k_and_bound_are_drawn_together(model, maps):
    with pst.stochastic_topk(model, (3,), share=1.0), pst.stochastic_max_tokens(model, (4,)):
        model(*maps)
        assert {(at.drawn_topk, at.drawn_max_tokens) for at in attention_layers(model).values()} == {(3, 4)}
        other = pickle.loads(pickle.dumps(model))
        assert {(at.drawn_topk, at.drawn_max_tokens) for at in attention_layers(other).values()} == {(None, None)}
        other(*maps)
        assert {(at.drawn_topk, at.drawn_max_tokens) for at in attention_layers(other).values()} == {(3, 4)}


# ------------------------------------------------------------------------------------------------------------- gates


def test_the_gates_parameters_are_those_of_every_layer(model):
    expected = [p for name, p in model.named_parameters() if ".gate." in name]
    assert len(expected) == 4
    assert [id(p) for p in pst.gate_parameters(model)] == [id(p) for p in expected]


def test_nothing_but_the_gate_changes_when_the_rest_is_frozen(model, maps):
    pst.set_topk(model, 4)
    for p in model.blocks[0].mlp.parameters():
        p.requires_grad_(False)
    required = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    with pst.freeze_except_gate(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
        model.train()  # as trainers do before each epoch
        model(*maps).square().mean().backward()
        optimizer.step()
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {f"blocks.{i}.attn.gate.{kind}" for i in range(2) for kind in ("weight", "bias")}
    assert [p.requires_grad for p in model.parameters()] == required
    assert [m.training for m in model.modules()] == modes
    model(*maps)
    assert not torch.equal(model.state_dict()["reduce.bn.running_mean"], before["reduce.bn.running_mean"])


def test_a_frozen_model_computes_what_it_does_in_eval_mode(model, maps):
    pst.set_topk(model, 4)
    with pst.freeze_except_gate(model):
        assert_close(model.train()(*maps), copy.deepcopy(model).eval()(*maps), 1e-5)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.999])
def test_a_constant_gate_mixes_with_its_share(model, maps, share):
    model = model.eval().double()
    x, upper = (t.double() for t in maps)
    pst.set_topk(model, 4)
    layer, ends = model.blocks[0].attn, []
    x, upper = model.reduce(x), model.reduce_upper(upper)
    for bias in (-1e3, 1e3):
        nn.init.zeros_(layer.gate.weight)
        nn.init.constant_(layer.gate.bias, bias)
        ends.append(layer(x, upper))
    pst.set_gate(model, share)
    assert_close(layer(x, upper), (1 - share) * ends[0] + share * ends[1])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_gate_of_all_or_nothing_is_refused(model, share):
    before = digest(model.blocks[0].attn.gate.bias)
    with pytest.raises(ValueError, match=r"^share must be above 0 and below 1, got "):
        pst.set_gate(model, share)
    assert digest(model.blocks[0].attn.gate.bias) == before


@pytest.mark.parametrize(
    "call", [pst.gate_parameters, pst.freeze_except_gate, lambda m: pst.set_gate(m, 0.5)], ids=["list", "freeze", "set"]
)
def test_a_missing_gate_is_refused(call):
    with pytest.raises(ValueError, match=says('fusion="refine" … no gate … blocks.0.attn')):
        call(pst.PST(8, 12, 32, head_dim=8, fusion="refine"))


def weight_normed(gate: nn.Linear) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(gate)


def pruned(gate: nn.Linear) -> nn.Module:
    return prune.l1_unstructured(gate, "weight", 0.5)


def behind_an_activation(gate: nn.Linear) -> nn.Module:
    return nn.Sequential(gate, nn.Tanh())


def without_bias(gate: nn.Linear) -> nn.Module:
    return nn.Linear(gate.in_features, gate.out_features, bias=False)


@pytest.mark.parametrize("change", [weight_normed, pruned, behind_an_activation, without_bias])
def test_a_gate_whose_weights_are_not_its_own_is_not_overwritten(model, change):
    layer = model.blocks[1].attn
    layer.gate = change(layer.gate)
    before = [digest(p) for p in model.parameters()]
    with pytest.raises(
        ValueError, match=r"overwrites weight and bias of a Linear, and the gate of blocks\.1\.attn is a"
    ):
        pst.set_gate(model, 0.5)
    assert [digest(p) for p in model.parameters()] == before


# ------------------------------------------------------------------------------------------- selection and k by layer


def test_set_selection_reaches_every_layer_and_takes_names_and_rules(model, maps):
    model.eval()
    pst.set_topk(model, 4)
    maps, seen = [8 * t for t in maps], set()  # attention that is sharp enough for the rules to differ
    for selection in ("mean", "mass", Window(grid=2), Nucleus(0.3), "random"):
        pst.set_selection(model, selection)
        assert [layer.selection for layer in attention_layers(model).values()] == [selection] * 2
        seen.add(digest(model(*maps)))
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert [layer.selection for layer in attention_layers(other).values()] == [selection] * 2
            assert digest(other(*maps)) in seen
    assert len(seen) == 5
    with pytest.raises(ValueError, match="selection must be one of"):
        pst.set_selection(model, "best")
    assert [layer.selection for layer in attention_layers(model).values()] == ["random"] * 2


def test_a_pickle_names_no_class_of_a_rule(model):
    pst.set_selection(model, Window(grid=2))
    assert b"pst.functional" not in pickle.dumps(model, protocol=2)


def test_records_of_windows_and_nuclei(model, maps):
    model.eval()
    pst.set_topk(model, 4)
    for selection, shape in ((Window(grid=3), (2, 2, 9, 4)), (Nucleus(1e-9), (2, 2, 4))):
        pst.set_selection(model, selection)
        with pst.record_selection(model) as selected:
            model(*maps)
        index = selected["blocks.0.attn"][0].index
        assert index.shape == shape
        assert (index[..., 0] >= 0).all()
        assert (index[..., 1:] == -1).all() == (selection == Nucleus(1e-9))


def test_k_by_layer_and_by_name(model):
    def ks() -> list[int]:
        return [layer.topk for layer in attention_layers(model).values()]

    pst.set_topk(model, [8, 0])
    assert ks() == [8, 0]
    pst.set_topk(model, {"blocks.1": 3})
    assert ks() == [8, 3]
    with pst.use_topk(model, (1, 2)):
        assert ks() == [1, 2]
        with pst.use_topk(model, {"blocks": 5, "blocks.0.attn": 6}):
            assert ks() == [6, 5]
    assert ks() == [8, 3]


BAD_KS: dict[str, tuple[Any, type[Exception], str]] = {
    "too few": ([8], ValueError, "1 … k … 2 … blocks.0.attn … blocks.1.attn"),
    "unknown name": (
        {"blocks.1": 2, "block": 8},
        ValueError,
        "'block' … blocks.0.attn … blocks.1.attn",
    ),
    "negative": ([1, -1], ValueError, "topk … got -1"),
    "float by name": ({"blocks": 1.5}, TypeError, "topk … integer … 1.5"),
    "text": ("88", TypeError, "topk … integer … '88'"),
}


@pytest.mark.parametrize(("k", "kind", "text"), BAD_KS.values(), ids=BAD_KS)
def test_a_bad_k_is_refused_and_changes_nothing(model, k, kind, text):
    pst.set_topk(model, [4, 2])
    with pytest.raises(kind, match=says(text)):
        pst.set_topk(model, k)
    assert [layer.topk for layer in attention_layers(model).values()] == [4, 2]


BAD_DRAWS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"choices": ()}, ValueError, "choices … none"),
    "negative": ({"choices": (4, -1)}, ValueError, "topk … got -1"),
    "float": ({"choices": (4.0,)}, TypeError, "topk … integer … 4.0"),
    "share": ({"share": 1.5}, ValueError, "share … 0 … 1 … got 1.5"),
    "text": ({"share": "half"}, TypeError, "share … number … 'half'"),
    "one choice": ({"choices": 8}, TypeError, "choices … list … got 8"),
    "seed": ({"generator": 0}, TypeError, "generator … torch.Generator … got 0"),
}


BAD_BOUNDS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"choices": ()}, ValueError, "choices … bounds … none"),
    "zero": ({"choices": (4, 0)}, ValueError, "max_tokens … ≥ 1 … 0"),
    "float": ({"choices": (4.0,)}, TypeError, "max_tokens … integer … 4.0"),
    "one choice": ({"choices": 8}, TypeError, "choices … bounds … got 8"),
    "share": ({"share": -1}, ValueError, "share … 0 … 1 … got -1"),
}


@pytest.mark.parametrize(("settings", "kind", "text"), BAD_BOUNDS.values(), ids=BAD_BOUNDS)
def test_bad_draws_of_bounds_are_refused(model, settings, kind, text):
    with pytest.raises(kind, match=says(text)):
        pst.stochastic_max_tokens(model, **settings)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(("settings", "kind", "text"), BAD_DRAWS.values(), ids=BAD_DRAWS)
def test_bad_draws_are_refused(model, settings, kind, text):
    with pytest.raises(kind, match=says(text)):
        pst.stochastic_topk(model, **settings)
    assert not model._forward_pre_hooks


def test_freezes_may_end_in_any_order(model, maps):
    wanted = [p.requires_grad for p in model.parameters()]
    first, second = pst.freeze_except_gate(model), pst.freeze_except_gate(model)
    first.remove()
    assert not model.reduce.conv.weight.requires_grad
    model(*maps)
    assert not model.reduce.bn.training
    second.remove()
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert model.reduce.bn.training


def test_what_is_frozen_in_a_gate_stays_so_beside_what_learns(model):
    gate = model.blocks[0].attn.gate
    gate.weight.requires_grad_(False)
    with pst.freeze_except_gate(model):
        assert not gate.weight.requires_grad
        assert gate.bias.requires_grad
    model.requires_grad_(False)
    with pst.freeze_except_gate(model):
        assert gate.weight.requires_grad


def test_an_idle_gate_changes_nothing_whatever_it_holds(model, maps):
    expected = model(*maps)
    for block in model.blocks:
        nn.init.constant_(block.attn.gate.weight, float("inf"))
    assert torch.equal(model(*maps), expected)


def test_a_gate_that_was_taken_out_is_refused(model, maps):
    pst.set_topk(model, 2)
    model.blocks[0].attn.gate = None
    with pytest.raises(ValueError, match='needs a gate, and there is None: put one back, or use "refine"'):
        model(*maps)


class Fixed(NamedTuple):
    """A rule of a user's that is a tuple."""

    token: int

    def select(self, tokens: Tokens) -> Selected:
        return Selected(tokens.key.new_full((*tokens.key.shape[:2], 1), self.token, dtype=torch.int64))


def test_a_rule_that_is_a_tuple_is_copied_as_it_is(model, maps):
    pst.set_topk(model, 2)
    pst.set_selection(model, Fixed(3))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.blocks[0].attn.selection == Fixed(3)
        assert torch.equal(twin(*maps), model(*maps))
