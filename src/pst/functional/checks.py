"""What `pyramid_sparse_attention` and the layers refuse, each in one sentence."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor

FUSIONS = ("gate", "refine")
IMPLEMENTATIONS = ("auto", "fused", "triton", "reference")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_integer(name: str, value: object, least: int | None = None, hint: str = "") -> int:
    """Return ``value`` as an int, NumPy's too; raise TypeError for another kind, bool included, ValueError below least.

    ``hint``, which starts with its own comma or colon, says what else there is to give.
    """
    if isinstance(value, torch.SymInt):  # a size under torch.compile or torch.export
        return cast("int", value)
    try:
        number = None if isinstance(value, bool) else operator.index(cast("Any", value))
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an integer{hint}, got {value!r} ({type(value).__name__})")
    if least is not None and number < least:
        raise ValueError(f"{name} must be ≥ {least}{hint}, got {number}")
    return number


def check_topk(topk: object) -> int:
    """Return ``topk`` as an int; raise TypeError for a non-integer (bool included), ValueError for k < 0."""
    return check_integer("topk", topk, 0, ", 0 for coarse attention alone")


def check_width(name: str, width: object) -> None:
    """Raise TypeError or ValueError unless a number of channels is an integer ≥ 1."""
    try:
        known = not isinstance(width, bool) and operator.index(cast("Any", width)) >= 1
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {width!r} ({type(width).__name__})") from None
    if not known:
        raise ValueError(f"{name} must be an integer ≥ 1, got {width!r}")


def check_max_tokens(max_tokens: object) -> int | None:
    """Return ``max_tokens`` as an int, or None; raise TypeError or ValueError unless it is ≥ 1, or None."""
    return None if max_tokens is None else check_integer("max_tokens", max_tokens, 1, ", or None for no bound")


def check_fusion(fusion: str) -> None:
    """Raise ValueError unless ``fusion`` is one of `FUSIONS`."""
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")


def check_maps(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise TypeError or ValueError unless query, key and value fit `pyramid_sparse_attention`."""
    for name, t in (("query", query), ("key", key), ("value", value)):
        check_tensor(name, t)
        if t.ndim != 5:
            raise ValueError(f"{name} must be (batch, heads, height, width, head width), got shape {tuple(t.shape)}")
        if t.dtype not in DTYPES or t.dtype != query.dtype:
            raise TypeError(
                f"query, key and value must share one float dtype of 16 bits or more, got {query.dtype} and {t.dtype}"
            )
        if t.device != query.device:
            raise ValueError(f"{name} is on {t.device} but the query on {query.device}: move them to one device")
    if key.shape[:4] != value.shape[:4]:
        got = f"{tuple(key.shape)} and {tuple(value.shape)}"
        raise ValueError(f"key and value must have one shape but for the last axis, got {got}")
    for axis, what in ((0, "batch size"), (1, "number of heads"), (4, "head width")):
        if query.shape[axis] != key.shape[axis]:
            raise ValueError(f"{what} differs: query has {query.shape[axis]}, key and value {key.shape[axis]}")
    for name, t in (("query", query), ("value", value)):
        if t.shape[4] == 0:
            raise ValueError(f"the head width must be ≥ 1, got a {name} of shape {tuple(t.shape)}")
    if query.shape[2] == 0 or query.shape[3] == 0:
        raise ValueError(f"maps must not be empty, got a query of shape {tuple(query.shape)}")


def check_fine(fine: object, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the fine map; raise TypeError or ValueError unless they fit the query and coarse values."""
    pair = check_pair_of_tensors("fine", fine, "(key, value), two tensors, or a function of positions")
    for name, t, like, d in zip(
        ("fine key", "fine value"), pair, ("query", "value"), (query.shape[4], value.shape[4]), strict=True
    ):
        check_tensor(name, t)
        if t.ndim != 5 or (*t.shape[:2], t.shape[4]) != (*query.shape[:2], d):
            b, h = query.shape[:2]
            raise ValueError(f"{name} must be ({b}, {h}, height, width, {d}) as the {like}, got {tuple(t.shape)}")
        check_kind(name, t, query)
    if pair[0].shape[:4] != pair[1].shape[:4]:
        got = [tuple(t.shape) for t in pair]
        raise ValueError(f"fine key and value must have one shape but for the last axis, got {got}")
    return pair


def check_size(name: str, size: object) -> tuple[int, int]:
    """Return (height, width); raise TypeError or ValueError unless it is two positive integers."""
    if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(type(n) is int for n in size):
        raise TypeError(f"{name} must be (height, width), two integers, got {size!r}")
    if min(size) < 1:
        raise ValueError(f"{name} must be ≥ 1 along both axes, got {size!r}")
    return size[0], size[1]


def check_tensor(name: str, t: object) -> None:
    """Raise TypeError unless ``t`` is a dense tensor."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
    if t.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {t.layout}: call to_dense() on it")


def check_scale(scale: Any, width: int) -> float:
    """The factor on the logits as a float; 1/√width for None."""
    if scale is None:
        return width**-0.5
    if isinstance(scale, torch.SymFloat):
        return cast(float, scale)
    if isinstance(scale, (bool, str)) or not hasattr(scale, "__float__") or getattr(scale, "ndim", 0) > 0:
        raise TypeError(f"scale must be a number, or None for 1/√{width}, got {scale!r}")
    if not math.isfinite(scale := float(scale)):
        raise ValueError(f"scale must be finite, got {scale!r}")
    return scale


def check_share(share: object) -> None:
    """Raise TypeError unless it is a real number."""
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"share must be a number, got {share!r}")


def check_generator(generator: object) -> None:
    """Raise TypeError unless it is a `torch.Generator` or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, or None for PyTorch's own, got {generator!r}")


def check_pair_of_tensors(name: str, pair: object, form: str) -> tuple[Tensor, Tensor]:
    """The two tensors; raise TypeError unless there are just two. ``form`` says what is wanted."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(t, Tensor) for t in pair):
        got = type(pair).__name__
        if isinstance(pair, (tuple, list)):
            got = f"{got} of {[type(t).__name__ for t in pair]}"
        raise TypeError(f"{name} must be {form}, got {got}")
    return pair[0], pair[1]


def check_sizes(fine: Sequence[int], coarse: Sequence[int]) -> None:
    """Raise ValueError for an empty map, or a fine map (H, W) smaller than the coarse one (Hu, Wu)."""
    if any(size == 0 for size in (*fine, *coarse)):  # no min(): it would make torch.export guard on the order of sizes
        raise ValueError(f"maps must not be empty, got fine {tuple(fine)} and coarse {tuple(coarse)}")
    if fine[0] < coarse[0] or fine[1] < coarse[1]:
        raise ValueError(
            f"the fine map must be at least as large as the coarse one, got fine {tuple(fine)} and coarse "
            f"{tuple(coarse)}: is the order of the two maps swapped?"
        )


def check_implementation(impl: str) -> None:
    """Raise ValueError unless ``impl`` is one of `IMPLEMENTATIONS`."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")


def check_options(
    fusion: str, impl: str, fine: object, gate: object, topk: int, generator: object, observer: object
) -> None:
    """Raise TypeError or ValueError unless the options are known, and what ``topk`` > 0 needs is there."""
    check_fusion(fusion)
    check_implementation(impl)
    check_generator(generator)
    if observer is not None and not callable(observer):
        raise TypeError(f"observer must be a function of the selected indices, got {observer!r}")
    if topk > 0 and fine is None:
        raise ValueError(f"topk={topk} needs the fine keys and values: pass fine=(key, value), or topk=0")
    if topk > 0 and fusion == "gate" and gate is None:
        raise ValueError(
            'fusion="gate" with topk > 0 needs gate=(weight, bias) or a gate to call; fusion="refine" needs none'
        )


def autocasts(t: Tensor) -> bool:
    """Whether autocast is on for the device of ``t``, so that dtypes may differ; meta tensors have none."""
    return not t.is_meta and torch.is_autocast_enabled(t.device.type)


def check_kind(name: str, t: Tensor, query: Tensor) -> None:
    """Raise TypeError or ValueError unless ``t`` has the dtype and device of ``query``."""
    if t.dtype != query.dtype:
        raise TypeError(f"{name} is {t.dtype} but the query {query.dtype}: give both one dtype")
    if t.device != query.device:
        raise ValueError(f"{name} is on {t.device} but the query on {query.device}: move them to one device")


def is_eager() -> bool:
    """Whether operators run as they are called. `torch.compile`, `torch.export`, `torch.jit.trace` only record them.

    Exports to ONNX are one of the last two.
    """
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())
