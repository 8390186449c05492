"""The same weights for every bound, k and fusion: what they score and what they cost. A host evaluates, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from pst.control.layers import find_attention
from pst.control.settings import set_options
from pst.functional.checks import check_fusion, check_max_tokens, check_topk
from pst.profile.memory import peak_memory

NONE = "none"  # the fusion of k = 0, where each gives the same model


class Evaluated(NamedTuple):
    """What a host finds of a model with its settings as they are.

    Attributes:
        metrics: Name -> value.
        latency_ms: Forward pass per image in milliseconds, mean over the set.
        images: Their number.
    """

    metrics: Mapping[str, float]
    latency_ms: float
    images: int


class Row(NamedTuple):
    """One evaluation of a sweep.

    Attributes:
        fusion: "gate" or "refine"; "none" for k = 0.
        topk: k.
        found: What the host found.
        peak_memory_mb: Of the evaluation, see `pst.profile.memory.peak_memory`.
        max_tokens: Bound on the coarse tokens; None for none, or where the layers' own differ.
        gflops: 10⁹ operations for one image, see `pst.profile.flops.count_flops`; None where nobody counted.
    """

    fusion: str
    topk: int
    found: Evaluated
    peak_memory_mb: float
    max_tokens: int | None = None
    gflops: float | None = None

    def flat(self) -> dict[str, Any]:
        """For tables and files: every field by its name, those of `Evaluated` among them, each metric by its own."""
        return {
            "fusion": self.fusion,
            "topk": self.topk,
            "max_tokens": self.max_tokens,
            **self.found.metrics,
            "latency_ms": self.found.latency_ms,
            "peak_memory_mb": self.peak_memory_mb,
            "gflops": self.gflops,
            "images": self.found.images,
        }


def grid(topk: Sequence[int], fusion: Sequence[str]) -> list[tuple[str, int]]:
    """(fusion, k) of every evaluation: ("none", 0) first, if 0 is among ``topk``, then every other k of each fusion.

    Raises:
        TypeError: A k is not an integer.
        ValueError: A k is negative, or a fusion unknown.
    """
    ks = [check_topk(k) for k in topk]
    for name in fusion:
        check_fusion(name)
    return [(NONE, 0)] * (0 in ks) + [(name, k) for name in fusion for k in ks if k > 0]


def check_bounds(max_tokens: Sequence[int | None] | None) -> list[int | None] | None:
    """Bounds on the coarse tokens as a list without repetitions; raise TypeError or ValueError for a wrong one."""
    if max_tokens is None:
        return None
    return list(dict.fromkeys(check_max_tokens(bound) for bound in max_tokens))


def options(fusion: str, topk: int) -> dict[str, Any]:
    """What `pst.set_options` is to set for one entry of a `grid`."""
    return {"topk": topk} | ({} if fusion == NONE else {"fusion": fusion})


def run_sweep(
    model: nn.Module,
    evaluate: Callable[[str], Evaluated],
    *,
    topk: Sequence[int],
    fusion: Sequence[str],
    max_tokens: Sequence[int | None] | None = None,
    count: Callable[[], float] | None = None,
    device: Any = "cpu",
) -> Iterator[Row]:
    """Evaluate a model once for every bound and entry of `grid`; one without PST layers once, as k = 0.

    Args:
        model: A Module or a host's object around one; it ends with the settings of the last row.
        evaluate: The host's evaluation of ``model`` as it is; is given a name for the run, e.g. "gate-k8".
        topk: Values of k.
        fusion: Fusions; "gate" needs a model that was built with it.
        max_tokens: Bounds on the coarse tokens, None among them for no bound; None alone leaves ``model`` its own.
        count: Gives the GFLOPs of ``model`` as it is; called outside of what is measured.
        device: Where ``model`` runs.

    Returns:
        An iterator that yields a row after each evaluation. Arguments are checked before it is returned.

    Raises:
        TypeError: A k or a bound is not an integer.
        ValueError: A k is negative, a bound < 1, a fusion unknown, or not to be had with this model.
    """
    plan, bounds = grid(topk, fusion), check_bounds(max_tokens)
    if not find_attention(model):
        plan, bounds = [(NONE, 0)], None
    for name in dict.fromkeys(name for name, _ in plan if name != NONE):
        set_options(model, fusion=name)  # fails here, before any work, where a layer has no gate
    changes = [{}] if bounds is None else [{"max_tokens": bound} for bound in bounds]
    return _rows(model, evaluate, [(change, *entry) for change in changes for entry in plan], count, device)


def _rows(
    model: nn.Module,
    evaluate: Callable[[str], Evaluated],
    plan: list[tuple[dict[str, Any], str, int]],
    count: Callable[[], float] | None,
    device: Any,
) -> Iterator[Row]:
    for change, fusion, k in plan:
        if find_attention(model):
            set_options(model, **options(fusion, k), **change)
        bound = _bound(model)
        with peak_memory(device) as peak:
            found = evaluate(f"{fusion}-k{k}" + ("" if bound is None else f"-m{bound}"))
        yield Row(fusion, k, found, peak[0], bound, None if count is None else count())


def _bound(model: nn.Module) -> int | None:
    """The bound that all PST layers have."""
    bounds = {layer.settings.max_tokens for layer in find_attention(model).values()}
    return bounds.pop() if len(bounds) == 1 else None
