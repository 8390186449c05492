"""Which coarse tokens have their children attended: scores, top-k, and the coarse-to-fine index map.

Letters: B batch, h heads, d head width, N = H·W query tokens, M = Hu·Wu coarse tokens, k selected tokens,
T = k·⌈H/Hu⌉·⌈W/Wu⌉ gathered children.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Size = tuple[int, int]


def mean_logit_scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Mean over all queries of the attention logits, without forming the N×M logits (spec, step 3).

    Uses mean_i(q_i·k_j) = (mean_i q_i)·k_j, in float32 (float64 for float64 input).

    Args:
        query: (B, h, N, d).
        key: (B, h, M, d).
        scale: Factor on every logit, usually 1/√d.

    Returns:
        (B, h, M) scores.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    mean_query = query.mean(-2, keepdim=True, dtype=dtype)
    return (mean_query * key.to(dtype)).sum(-1) * scale


def gumbel_scores(query: Tensor, key: Tensor, scale: float, generator: torch.Generator | None = None) -> Tensor:
    """`mean_logit_scores` plus standard Gumbel noise −log E, E ~ Exp(1). For training studies only."""
    scores = mean_logit_scores(query, key, scale)
    return scores - torch.empty_like(scores).exponential_(generator=generator).log()


# name -> (scoring function, draws random numbers)
SELECTIONS: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "mean": (mean_logit_scores, False),
    "gumbel": (gumbel_scores, True),
}


def check_selection(selection: str) -> str:
    """Return ``selection``; raise ValueError unless it names a selection rule."""
    if selection not in SELECTIONS:
        raise ValueError(f"selection must be one of {sorted(SELECTIONS)}, got {selection!r}")
    return selection


def select_tokens(
    query: Tensor,
    key: Tensor,
    topk: int,
    *,
    scale: float,
    selection: str = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Flat indices of the ``topk`` highest-scoring coarse tokens of each image and head.

    Equal scores are taken in index order, on every device. Not differentiable.

    Args:
        query: (B, h, N, d).
        key: (B, h, M, d).
        topk: Number of tokens; more than M means M.
        scale: Factor on every logit.
        selection: A name in `SELECTIONS`.
        generator: Source of the random numbers of the rules that draw any.

    Returns:
        (B, h, min(topk, M)) int64, highest score first.
    """
    score, draws = SELECTIONS[check_selection(selection)]
    extra = {"generator": generator} if draws else {}
    with torch.no_grad():
        scores = score(query, key, scale, **extra)
        if torch.onnx.is_in_onnx_export():  # ONNX has no stable sort, but its TopK takes the lower index of a tie
            return scores.topk(min(topk, scores.shape[-1])).indices
        if torch.jit.is_tracing():  # Core ML cannot read the stable overload; on the CPU this one is stable as well
            return scores.sort(dim=-1, descending=True).indices[..., :topk]
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :topk]


def parent_index(fine_size: Size, coarse_size: Size, device: torch.device | None = None) -> Tensor:
    """The one coarse token that owns each fine position: (⌊y·Hu/H⌋, ⌊x·Wu/W⌋), flattened.

    Args:
        fine_size: (H, W).
        coarse_size: (Hu, Wu).
        device: Where the result lives.

    Returns:
        (H·W,) int64, values in [0, Hu·Wu).
    """
    (height, width), (rows, columns) = fine_size, coarse_size
    y = torch.arange(height, device=device) * rows // height
    x = torch.arange(width, device=device) * columns // width
    return (y[:, None] * columns + x).flatten()


def child_slots(fine_size: Size, coarse_size: Size) -> int:
    """⌈H/Hu⌉·⌈W/Wu⌉: slots for children that `child_index` gives every coarse token."""
    return -(-fine_size[0] // coarse_size[0]) * -(-fine_size[1] // coarse_size[1])


def child_index(parent: Tensor, fine_size: Size, coarse_size: Size) -> tuple[Tensor, Tensor | None]:
    """Fine positions owned by each given coarse token: the inverse of `parent_index`.

    Works for any ratio ≥ 1. Every token is given `child_slots` slots; where it owns fewer positions the spare
    slots hold an owned position again and are marked invalid.

    Args:
        parent: (..., k) int64, flat coarse indices.
        fine_size: (H, W).
        coarse_size: (Hu, Wu).

    Returns:
        index: (..., T) int64, flat fine indices, the slots of one token side by side.
        valid: (..., T) bool, or None when the sizes divide evenly and every slot is valid.
    """
    (height, width), (rows, columns) = fine_size, coarse_size
    row = parent // columns
    y, y_valid = _axis_children(row, height, rows)
    x, x_valid = _axis_children(parent - row * columns, width, columns)  # no %: not every export target has it
    index = (y[..., :, None] * width + x[..., None, :]).flatten(-3)
    index = index.to(parent.dtype)  # as it is already, but Core ML's converter takes the result of // for a float
    if y_valid is None and x_valid is None:
        return index, None
    y_valid = torch.ones_like(y, dtype=torch.bool) if y_valid is None else y_valid
    x_valid = torch.ones_like(x, dtype=torch.bool) if x_valid is None else x_valid
    return index, (y_valid[..., :, None] & x_valid[..., None, :]).flatten(-3)


def _axis_children(parent: Tensor, fine: int, coarse: int) -> tuple[Tensor, Tensor | None]:
    """Positions in [⌈p·fine/coarse⌉, ⌈(p+1)·fine/coarse⌉) of one axis: (..., ⌈fine/coarse⌉), and which are real."""
    slots = torch.arange(-(-fine // coarse), device=parent.device)
    if _divides(coarse, fine):
        return parent[..., None] * (fine // coarse) + slots, None
    first = (parent * fine + coarse - 1) // coarse
    last = ((parent + 1) * fine + coarse - 1) // coarse - 1
    position = first[..., None] + slots
    return torch.minimum(position, last[..., None]), position <= last[..., None]


def _divides(coarse: int, fine: int) -> bool:
    """Whether ``fine`` is a multiple of ``coarse``; for symbolic sizes, whether that holds for all of their values.

    So an exported program with independent dynamic sizes takes the general path and runs at any of them.
    """
    remainder = fine % coarse
    if isinstance(remainder, torch.SymInt):
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(remainder == 0)
    return remainder == 0
