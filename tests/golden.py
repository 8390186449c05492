"""Golden vectors: outputs and gradients of the method in float64, for weights and inputs made from names and seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from goldens import fill

FOLDER = Path(__file__).parent / "goldens"
TOLERANCE = 1e-5  # of the largest value
BATCH = 2


@cache
def index() -> dict[str, Any]:
    """What is in goldens.json: lists of cases by kind, and "state_dict", shapes by model and key."""
    return json.loads((FOLDER / "goldens.json").read_text())


def cases(kind: str) -> list:
    """The cases of one kind ("attention", "module" or "model") as pytest parameters."""
    return [pytest.param(case, id=case["name"]) for case in index()[kind]]


@cache
def vectors(name: str) -> dict[str, Tensor]:
    """The recorded tensors of one case without its name: "y", "dx", "dupper", "d.{authors' key}", …"""
    with safe_open(FOLDER / "goldens.safetensors", framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{name}.")]  # noqa: SIM118 not a mapping
        return {key.removeprefix(f"{name}."): file.get_tensor(key) for key in keys}


def weights(like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A state dict in the authors' names, shaped like the one given."""
    return {name: torch.as_tensor(fill.parameter(name, tuple(t.shape), seed)) for name, t in like.items()}


def tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The float64 input or cotangent called ``name``."""
    return torch.from_numpy(fill.tensor(name, shape, seed)).double()


def run(module: nn.Module, case: dict[str, Any], channels: tuple[int, int]) -> dict[str, Tensor]:
    """Run a two-map module forward and backward; its output, and its gradients by our names (None left out)."""
    size = case["height"], case["width"]
    x = tensor("x", (BATCH, channels[0], *size), case["seed"]).requires_grad_()
    upper = tensor("upper", (BATCH, channels[1], size[0] // 2, size[1] // 2), case["seed"]).requires_grad_()
    y = module(x, upper)
    y.backward(tensor("cotangent", tuple(y.shape), case["seed"]))
    assert x.grad is not None
    assert upper.grad is not None
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, "dupper": upper.grad, **gradients}


def assert_matches(actual: Tensor, expected: Tensor, what: str) -> None:
    """Assert equality to `TOLERANCE` of the largest expected value."""
    expected = expected.to(actual.dtype)
    assert actual.shape == expected.shape, what
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= TOLERANCE, f"{what}: error {error:.1e} of the largest value"
