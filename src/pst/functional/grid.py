"""Where coarse tokens and blocks of queries lie on the fine map: index maps for any ratio ≥ 1 and odd sizes.

Letters: B batch, h heads, d head width, N = H·W positions of the fine map, k coarse tokens,
T = k·⌈H/Hu⌉·⌈W/Wu⌉ gathered children, G blocks of queries of n slots each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

_OPEN_SIZES: ContextVar[bool] = ContextVar("open_sizes", default=False)


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
    return _ceil(fine_size[0], coarse_size[0]) * _ceil(fine_size[1], coarse_size[1])


def child_index(
    parent: Tensor, fine_size: Size, coarse_size: Size, *, any_ratio: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Fine positions owned by each given coarse token: the inverse of `parent_index`.

    Works for any ratio ≥ 1. Every token is given `child_slots` slots; where it owns fewer positions the spare
    slots hold an owned position again and are marked invalid.

    Args:
        parent: (..., k) int64, flat coarse indices.
        fine_size: (H, W).
        coarse_size: (Hu, Wu).
        any_ratio: Make no use of sizes that divide evenly: what is traced then holds for others too.

    Returns:
        index: (..., T) int64, flat fine indices, the slots of one token side by side.
        valid: (..., T) bool, or None when the sizes divide evenly and every slot is valid.
    """
    (height, width), (rows, columns) = fine_size, coarse_size
    row = parent // columns
    column = parent - row * columns  # no %: not every export target has it
    y, y_valid = _axis_children(row, height, rows, any_ratio)
    x, x_valid = _axis_children(column, width, columns, any_ratio)
    index = (y[..., :, None] * width + x[..., None, :]).flatten(-3)
    index = index.to(parent.dtype)  # as it is already, but Core ML's converter takes the result of // for a float
    if y_valid is None and x_valid is None:
        return index, None
    y_valid = torch.ones_like(y, dtype=torch.bool) if y_valid is None else y_valid
    x_valid = torch.ones_like(x, dtype=torch.bool) if x_valid is None else x_valid
    return index, (y_valid[..., :, None] & x_valid[..., None, :]).flatten(-3)


def child_means(fine: Tensor, coarse_size: Size) -> Tensor:
    """The mean of each coarse position's children: the coarse map of aligned levels, for any ratio ≥ 1 and odd sizes.

    Every fine position counts once, unlike in `torch.nn.functional.adaptive_avg_pool2d`, whose cells overlap.

    Args:
        fine: (B, C, H, W), float.
        coarse_size: (Hu, Wu).

    Returns:
        (B, C, Hu, Wu), dtype of ``fine``.

    Examples:
        >>> child_means(torch.tensor([[[[0.0, 2.0, 4.0, 8.0, 9.0]]]]), (1, 2))
        tensor([[[[2.0000, 8.5000]]]])
    """
    height, width = fine.shape[2], fine.shape[3]
    rows, columns = coarse_size
    if _divides(rows, height) and _divides(columns, width):
        return F.avg_pool2d(fine, _window((height, width), coarse_size))
    means = pool_tokens(fine.flatten(2).transpose(1, 2)[:, None], (height, width), coarse_size)
    return means[:, 0].transpose(1, 2).unflatten(2, coarse_size)


def pool_tokens(tokens: Tensor, size: Size, pooled: Size) -> Tensor:
    """`child_means` of tokens: (B, h, N, d) of ``size`` -> (B, h, P, d); float32 sums at least."""
    if _divides(pooled[0], size[0]) and _divides(pooled[1], size[1]):  # as maps, for runtimes without a gather
        heads = tokens.shape[1]
        maps = tokens.transpose(2, 3).flatten(1, 2).unflatten(2, size)
        maps = F.avg_pool2d(maps, _window(size, pooled))
        return maps.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
    index, valid = child_index(torch.arange(pooled[0] * pooled[1], device=tokens.device), size, pooled)
    slots = child_slots(size, pooled)
    children = tokens.index_select(2, index).unflatten(2, (-1, slots))
    wide = torch.promote_types(tokens.dtype, torch.float32)
    assert valid is not None
    valid = valid.unflatten(0, (-1, slots))[..., None]
    return (children.masked_fill(~valid, 0).sum(3, dtype=wide) / valid.sum(1)).to(tokens.dtype)


def bounded_size(coarse_size: Size, max_tokens: int | None) -> Size | None:
    """(rows, columns) of at most ``max_tokens`` pooled tokens, as square as the map allows; None if all may stay."""
    height, width = coarse_size
    if max_tokens is None or height * width <= max_tokens:
        return None
    rows = min(height, math.isqrt(max_tokens))
    columns = max_tokens // rows
    if width >= columns:
        return rows, columns
    return min(height, max_tokens // width), width


def _window(size: Size, pooled: Size) -> Size:
    """Sides of the windows that a map of ``size`` is averaged in; plain numbers when traced, as pooling needs them."""
    height, width = size[0] // pooled[0], size[1] // pooled[1]
    return (int(height), int(width)) if torch.jit.is_tracing() else (height, width)


def _axis_children(parent: Tensor, fine: int, coarse: int, any_ratio: bool) -> tuple[Tensor, Tensor | None]:
    """Positions in [⌈p·fine/coarse⌉, ⌈(p+1)·fine/coarse⌉) of one axis: (..., ⌈fine/coarse⌉), and which are real."""
    slots = torch.arange(_ceil(fine, coarse), device=parent.device)
    if not any_ratio and _divides(coarse, fine):
        return parent[..., None] * (fine // coarse) + slots, None
    first = (parent * fine + coarse - 1) // coarse
    last = ((parent + 1) * fine + coarse - 1) // coarse - 1
    position = first[..., None] + slots
    return torch.minimum(position, last[..., None]), position <= last[..., None]


def _ceil(fine: int, coarse: int) -> int:
    """⌈fine/coarse⌉ without negative numbers, of which ONNX rounds quotients up."""
    return (fine + coarse - 1) // coarse


def _divides(coarse: int, fine: int) -> bool:
    """Whether ``fine`` is a multiple of ``coarse``; for symbolic sizes, whether that holds for all of their values.

    So an exported program with independent dynamic sizes takes the general path and runs at any of them.
    """
    remainder = fine % coarse
    if isinstance(remainder, torch.SymInt):
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(remainder == 0)
    return remainder == 0


@contextmanager
def open_sizes() -> Iterator[None]:
    """What `torch.jit.trace` traces of blocks of queries inside the with block holds at any size of the maps.

    Outside, a trace keeps how the map of its own size is divided: fewer operators, which more runtimes have.
    """
    token = _OPEN_SIZES.set(True)
    try:
        yield
    finally:
        _OPEN_SIZES.reset(token)


def _traces_open_sizes() -> bool:
    """Whether sizes are tensors and may be others when the trace is run."""
    return torch.jit.is_tracing() and _OPEN_SIZES.get()


def block_grid(blocks: int, size: Size) -> Size:
    """Rows and columns of blocks that a map of ``size`` is divided into: ``blocks`` of each, at least 1×1 positions."""
    if _traces_open_sizes():
        rows, columns = (torch.as_tensor(n).clamp(max=blocks) for n in size)
        return cast("Size", (rows, columns))
    return min(blocks, size[0]), min(blocks, size[1])


def block_index(size: Size, grid: Size, device: torch.device | None = None) -> tuple[Tensor, Tensor | None]:
    """Positions of each block of a map that is divided into ``grid`` blocks as even as can be.

    Block (r, c) holds the positions (y, x) with ⌊y·rows/H⌋ = r and ⌊x·columns/W⌋ = c. Every block has as many slots
    as the largest; the spare ones of a smaller block hold one of its positions again and are marked invalid.

    Args:
        size: (H, W).
        grid: Rows and columns of blocks, no more than H and W.
        device: Where the result lives.

    Returns:
        index: (G, n) int64, flat positions.
        valid: (G, n) bool, or None when every slot is valid.
    """
    blocks = torch.arange(grid[0] * grid[1], device=device)[:, None]
    return child_index(blocks, size, grid, any_ratio=_traces_open_sizes())


def split_blocks(tokens: Tensor, size: Size, grid: Size) -> Tensor:
    """(B, h, N, d) -> (B, h·G, n, d): the tokens of each block by themselves, spare slots included."""
    index, _ = block_index(size, grid, tokens.device)
    picked = tokens.index_select(2, index.flatten())
    return picked.reshape(*tokens.shape[:2], *index.shape, tokens.shape[3]).flatten(1, 2)


def join_blocks(tokens: Tensor, size: Size, grid: Size) -> Tensor:
    """(B, h·G, n, d) -> (B, h, N, d): the inverse of `split_blocks`."""
    (height, width), (rows, columns) = size, grid
    slots = _ceil(height, rows), _ceil(width, columns)
    y, x = (torch.arange(n, device=tokens.device) for n in size)
    row, column = y * rows // height, x * columns // width
    y = y - (row * height + rows - 1) // rows  # offset in its block
    x = x - (column * width + columns - 1) // columns
    index = (row * columns * slots[0] + y)[:, None] * slots[1] + (column * slots[0] * slots[1] + x)
    return tokens.unflatten(1, (-1, rows * columns)).flatten(2, 3).index_select(2, index.flatten())
