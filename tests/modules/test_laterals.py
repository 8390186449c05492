"""No neck: each map by itself, and further levels as a pyramid has them."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from pst.modules import Laterals


def maps():
    return OrderedDict(p3=torch.rand(2, 8, 7, 5), p4=torch.rand(2, 12, 4, 3))


def test_each_result_is_of_its_map_alone():
    neck, given = Laterals([8, 12], 6).eval(), maps()
    before = neck(given)
    assert {name: tuple(y.shape) for name, y in before.items()} == {"p3": (2, 6, 7, 5), "p4": (2, 6, 4, 3)}
    given["p4"] = given["p4"] + 1
    after = neck(given)
    assert torch.equal(before["p3"], after["p3"])
    assert not torch.allclose(before["p4"], after["p4"])


def test_further_levels_are_those_of_the_extra_blocks():
    class Extra(nn.Module):
        def forward(self, results, levels, names):
            assert [tuple(x.shape) for x in levels] == [tuple(x.shape) for x in maps().values()]
            return [*results, results[-1][..., ::2, ::2]], [*names, "more"]

    found = Laterals([8, 12], 6, Extra())(maps())
    assert list(found) == ["p3", "p4", "more"]
    assert tuple(found["more"].shape) == (2, 6, 2, 2)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match="zip"):
        Laterals([8], 6)(maps())
