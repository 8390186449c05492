"""One picture through one model with k = 0 and with another k: what is found, what it takes, what was recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from PIL import Image

from pst.control import set_options
from pst.control.layers import find_attention
from pst.explore.attention import attention_of, tokens_of
from pst.explore.draw import Place, beside, draw_attention, draw_found, draw_tokens, position_of
from pst.explore.networks import Found, Network, Seen
from pst.explore.passes import Pass, record_passes
from pst.functional.selection import RULES
from pst.profile.timing import Timing, interleave

PINK = "The strongest pink has the highest score."  # of the selected tokens
SELECTIONS = tuple(sorted(RULES.keys() - {"gumbel"}))  # which adds its noise while training alone
_SECONDS, _RUNS = 0.5, 5


@dataclass(frozen=True)
class Asked:
    """What is set on every PST layer; ``max_tokens`` None means no bound."""

    topk: int = 8
    max_tokens: int | None = None
    fusion: str = "gate"
    selection: str = "mean"


class Computed(NamedTuple):
    """Results with k = 0 and with the k that was asked for.

    Attributes:
        seen: The picture.
        coarse: Found with k = 0.
        fine: Found with the other k.
        passes: Of every layer, with that k.
        times: Of a pass of the network alone, by k.
    """

    seen: Seen
    coarse: Found
    fine: Found
    passes: dict[str, Pass]
    times: dict[int, Timing]


class Shown(NamedTuple):
    """Four pictures with a line each, None where there is none.

    Attributes:
        coarse: With k = 0.
        fine: With the k that was asked for.
        tokens: The selected tokens.
        attention: Where the position looks.
        captions: Of the four.
    """

    coarse: Image.Image | None = None
    fine: Image.Image | None = None
    tokens: Image.Image | None = None
    attention: Image.Image | None = None
    captions: tuple[str, str, str, str] = ("", "", "", "")


def fusions_of(network: Network) -> list[str]:
    """The fusions that every layer of a model can do."""
    gates = all(layer.gate is not None for layer in find_attention(network.model).values())
    return ["gate", "refine"] if gates else ["refine"]


def compute(network: Network, image: Image.Image, asked: Asked) -> Computed:
    """Run, record and time a model; its layers keep the settings."""
    seen = network.see(image)

    def using(k: int) -> None:
        set_options(network.model, **vars(replace(asked, topk=k)))

    def run(k: int) -> None:
        using(k)
        network.forward(seen)

    using(0)
    coarse = network.find(seen)
    using(asked.topk)
    fine = coarse if asked.topk == 0 else network.find(seen)
    with record_passes(network.module) as passes:
        network.forward(seen)
    ks = dict.fromkeys((0, asked.topk))
    cases = {str(k): (lambda k=k: run(k)) for k in ks}
    times = interleave(cases, seconds=_SECONDS, min_runs=_RUNS, warmup=1, progress=False)
    using(asked.topk)
    return Computed(seen, coarse, fine, {p.name: p for p in passes}, {int(k): t for k, t in times.items()})


def show(computed: Computed, asked: Asked, layer: str, head: int, place: Place | None) -> Shown:
    """Draw what was computed for one layer and head, and a place of the picture."""
    p = computed.passes[layer]
    position = None if place is None else position_of(computed.seen, place, p.size)
    tokens = tokens_of(p, head, position)
    attention, said = None, "Click on a picture to see where that position looks."
    if place is not None and position is not None:
        found = attention_of(p, head, position)
        attention = draw_attention(computed.seen, found.weights, place)
        said = f"Where row {position[0]}, column {position[1]} (from 0) of {p.size[0]}×{p.size[1]} looks"
        said += "." if found.share is None else f"; the gate gives the fine branch {found.share:.0%}."
    coarse, fine = (_result(f, computed.times, k) for f, k in ((computed.coarse, 0), (computed.fine, asked.topk)))
    return Shown(
        draw_found(computed.seen, computed.coarse),
        draw_found(computed.seen, computed.fine),
        draw_tokens(computed.seen, tokens, p.coarse_size, place),
        attention,
        (coarse, fine, _chosen(p, tokens, asked.topk, beside(computed.seen, tokens, p.coarse_size)), said),
    )


def _result(found: Found, times: dict[int, Timing], k: int) -> str:
    time = times[k]
    took = duration(time.median / 1e3)
    return f"k = {k}: {found.text}. {took} a pass of the network ({runs_of(time.runs)}, measured here just now)."


def runs_of(count: int) -> str:
    """What a time is of."""
    return "one run" if count == 1 else f"median of {count}"


def duration(seconds: float) -> str:
    """Three digits, more or less."""
    if seconds < 0.1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _chosen(p: Pass, tokens: list[int], topk: int, hidden: int) -> str:
    count = p.coarse_size[0] * p.coarse_size[1]
    if p.selection is None:
        return f"k = 0 selects none of the {count} coarse tokens ({p.coarse_size[0]}×{p.coarse_size[1]})."
    if topk > count:
        return f"All {count} coarse tokens ({p.coarse_size[0]}×{p.coarse_size[1]}): there are no {topk}. {PINK}"
    of = "selected by one block of queries or another" if p.selection.index.ndim == 4 else "selected"
    gone = f", {hidden} of them in the grey that fills the square and is not shown" if hidden else ""
    return f"{len(tokens)} of {count} coarse tokens ({p.coarse_size[0]}×{p.coarse_size[1]}) {of}{gone}. {PINK}"
