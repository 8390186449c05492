"""The method as a textbook writes it: the rival every speed ratio is taken against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional.selection import child_index
from pst.modules import PST, PyramidSparseAttention


def textbook_attention(self: PyramidSparseAttention, x: Tensor, upper: Tensor) -> Tensor:
    """Forward pass of ``self`` by the formulas of the paper, vectorised over images and heads.

    Keeps the N×M logits and the softmax of them, takes the mean over the queries of those logits as scores, projects
    the whole fine map, gathers afterwards, and works on (B, C, N) layouts. Same weights, same result ("gate").
    """
    size, coarse = x.shape[2:], upper.shape[2:]
    heads, scale = self.num_heads, (self.dim // self.num_heads) ** -0.5
    query = self.q(x).flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
    key, value = self.kv(upper).flatten(2).unflatten(1, (heads, -1)).transpose(2, 3).chunk(2, -1)
    logits = query @ key.transpose(2, 3) * scale
    out = logits.softmax(-1) @ value
    if self.topk > 0:
        selected = logits.mean(2).topk(min(self.topk, key.shape[2])).indices
        index = child_index(selected, (size[0], size[1]), (coarse[0], coarse[1]))[0][..., None]
        fine_kv = self.kv(x).flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
        fine_key, fine_value = fine_kv.gather(2, index.expand(-1, -1, -1, fine_kv.shape[-1])).chunk(2, -1)
        fine = (query @ fine_key.transpose(2, 3) * scale).softmax(-1) @ fine_value
        assert self.gate is not None  # built with fusion="gate"
        g = torch.sigmoid(self.gate(torch.cat([out, fine], -1)))
        out = g * fine + (1 - g) * out
    position = self.pe(value.transpose(2, 3).flatten(1, 2).unflatten(2, coarse))
    position = F.interpolate(position, size=size, mode="bilinear", align_corners=False)
    return self.proj(out.transpose(2, 3).flatten(1, 2).unflatten(2, size) + position)


def textbook_layer(self: PST, x: Tensor, upper: Tensor) -> Tensor:
    """Forward pass of ``self`` with `textbook_attention` in every block: same weights, same result ("gate")."""
    outputs, upper = [self.reduce(x)], self.reduce_upper(upper)
    for block in self.blocks:
        z = outputs[-1] + textbook_attention(block.attn, outputs[-1], upper)  # type: ignore[attr-defined]
        outputs.append(z + block.mlp(z))  # type: ignore[operator]
    return self.project(torch.cat(outputs, 1))
