"""Outputs and gradients equal those of the authors' method, in float64."""

from __future__ import annotations

import pytest
from torch import Tensor

import golden
import pst
from pst.control import attention_layers
from pst.io.checkpoints import from_authors, to_authors

IMPLEMENTATIONS = ("fused", "reference")


def attention_to_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a bare attention layer; the gate is a Conv1d there."""
    names = {"gate.weight": "gate_conv1d.weight", "gate.bias": "gate_conv1d.bias"}
    return {names.get(key, key): t[..., None] if key == "gate.weight" else t for key, t in state.items()}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", golden.cases("attention"))
def test_attention(case, impl):
    layer = pst.PyramidSparseAttention(case["dim"], case["num_heads"], topk=case["topk"])
    filled = golden.weights(attention_to_authors(layer.state_dict()), case["seed"])
    ours = {key: filled[name] for key, name in zip(layer.state_dict(), filled, strict=True)}
    ours["gate.weight"] = ours["gate.weight"][..., 0]
    layer.load_state_dict(ours)
    layer.impl = impl

    got = golden.run(layer.eval().double(), case, (case["dim"], case["dim"]))

    outputs = {name: got.pop(name) for name in ("y", "dx", "dupper")}
    actual = outputs | {f"d.{name}": t for name, t in attention_to_authors(got).items()}
    expected = golden.vectors(case["name"])
    assert actual.keys() - expected.keys() <= {"d.kv.conv.weight"}  # left out of the file where it is large
    assert ("d.gate_conv1d.weight" in expected) == (case["topk"] > 0)
    for name, tensor in expected.items():
        golden.assert_matches(actual[name], tensor, name)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", golden.cases("module"))
def test_pst(case, impl):
    names = ("in_channels", "upper_channels", "out_channels", "depth", "mlp_ratio", "expansion", "topk")
    layer = pst.PST(**{name: case[name] for name in names})
    layer.load_state_dict(from_authors(golden.weights(to_authors(layer.state_dict()), case["seed"])))
    for attention in attention_layers(layer).values():
        attention.impl = impl

    layer.train(case["mode"] == "train").double()
    got = golden.run(layer, case, (case["in_channels"], case["upper_channels"]))

    expected = golden.vectors(case["name"])
    assert expected.keys() == {"y", "dx", "dupper"}
    for name, tensor in expected.items():
        golden.assert_matches(got[name], tensor, name)
