from __future__ import annotations

import torch
from battery import AttentionBattery

import pst


class TestPST(AttentionBattery):
    def build(self, **settings):
        return pst.PST(8, 12, 32, head_dim=8, depth=2, **settings)

    def inputs(self, sizes, batch=2):
        return torch.randn(batch, 8, *sizes[0]), torch.randn(batch, 12, *sizes[1])

    def output_shapes(self, sizes, batch=2):
        return [(batch, 32, *sizes[0])]
