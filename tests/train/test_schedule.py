"""The learning rate over a run, whatever its length."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pst.train import load_config
from pst.train.schedule import schedule

LR = 1e-3
FALLING = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt")


def rates(name: str, epochs: int, updates: int = 10) -> list[float]:
    """Of every step."""
    config = load_config("classify", overrides=["data=d", f"scheduler={name}", f"epochs={epochs}", f"lr={LR}"])
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=LR)
    made, found = schedule(optimizer, config, updates), []
    for step in range(epochs * updates):
        if made is not None:
            made.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("epochs", [1, 5, 12, 50, 300])
@pytest.mark.parametrize("name", FALLING)
def test_it_falls_in_a_run_of_any_length(name, epochs):
    found = rates(name, epochs)
    assert max(found) == pytest.approx(LR, rel=0.1)
    if epochs > 1:
        assert found[-1] < 0.25 * LR
    highest = found.index(max(found))
    assert all(a >= b for a, b in zip(found[highest:], found[highest + 1 :], strict=False))


@pytest.mark.parametrize("name", ["constant", "none"])
def test_it_stays(name):
    assert rates(name, 12)[20:] == [LR] * 100


def test_where_steps_fall():
    step, multistep = rates("step", 50), rates("multistep", 12)
    assert [step[epoch * 10] for epoch in (16, 17, 33, 34, 49)] == pytest.approx(
        [LR, LR / 10, LR / 10, LR / 100, LR / 100]
    )
    assert [multistep[epoch * 10] for epoch in (7, 8, 10, 11)] == pytest.approx([LR, LR / 10, LR / 10, LR / 100])


def test_the_polynomial_has_the_power_of_deeplab():
    found = rates("poly", 50)
    assert found[250] == pytest.approx(1e-6 + (LR - 1e-6) * 0.5**0.9, rel=1e-6)
