"""The slow, readable definition of correct: the paper's formulas, one image and head at a time.

Forms the full N×M logits and finds children by searching the parent map, so it shares no shortcut with the fused
path. Use it as an oracle, in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pst.functional._types import FineTokens, Gate, Inputs
from pst.functional.selection import SELECTIONS, parent_index


def reference(inputs: Inputs, fine: FineTokens | None, gate: Gate | None) -> Tensor:
    """See `pst.functional.pyramid_sparse_attention`, which checks everything this relies on."""
    query, key, value = (t.flatten(2, 3) for t in (inputs.query, inputs.key, inputs.value))
    logits = torch.einsum("bhnd,bhmd->bhnm", query, key) * inputs.scale
    if fine is None:
        return (logits.softmax(-1) @ value).unflatten(2, inputs.fine_size)

    selected = _select(inputs, logits)
    if inputs.observer is not None:
        inputs.observer(selected)
    owner = parent_index(inputs.fine_size, inputs.coarse_size, device=key.device)
    everywhere = torch.arange(len(owner), device=key.device).expand(*key.shape[:2], -1)
    fine_key, fine_value = fine(everywhere)
    fine_logits = torch.einsum("bhnd,bhmd->bhnm", query, fine_key) * inputs.scale

    out = torch.empty_like(query)
    for b in range(query.shape[0]):
        for head in range(query.shape[1]):
            chosen = selected[b, head]
            children = torch.isin(owner, chosen)
            args = (logits[b, head], value[b, head], fine_logits[b, head][:, children], fine_value[b, head][children])
            if inputs.fusion == "gate":
                assert gate is not None  # checked by the caller; tells the type checker
                out[b, head] = _gated(*args, gate)
            else:
                out[b, head] = _refined(*args, chosen, owner[children])
    return out.unflatten(2, inputs.fine_size)


def _select(inputs: Inputs, logits: Tensor) -> Tensor:
    """(B, h, min(k, M)) flat coarse indices, highest mean logit first."""
    score, draws = SELECTIONS[inputs.selection]
    query, key = inputs.query.flatten(2, 3), inputs.key.flatten(2, 3)
    scores = score(query, key, inputs.scale, generator=inputs.generator) if draws else logits.mean(2)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.detach().to(dtype).argsort(dim=-1, descending=True, stable=True)[..., : inputs.topk]


def _gated(logits: Tensor, value: Tensor, fine_logits: Tensor, fine_value: Tensor, gate: Gate) -> Tensor:
    """Spec, steps 2, 4 and 5: two softmaxes, mixed by the gate."""
    coarse = logits.softmax(-1) @ value
    fine = fine_logits.softmax(-1) @ fine_value
    g = (torch.cat([coarse, fine], -1) @ gate.weight.T + gate.bias).sigmoid()
    return g * fine + (1 - g) * coarse


def _refined(
    logits: Tensor, value: Tensor, fine_logits: Tensor, fine_value: Tensor, chosen: Tensor, owner: Tensor
) -> Tensor:
    """Spec, last section: one softmax over the tokens not chosen and the children of the chosen."""
    kept = torch.ones(len(value), dtype=torch.bool, device=value.device)
    kept[chosen] = False
    siblings = torch.bincount(owner, minlength=len(value))[owner]
    joint = torch.cat([logits[:, kept], fine_logits - siblings.to(logits.dtype).log()], -1)
    return joint.softmax(-1) @ torch.cat([value[kept], fine_value])
