"""Pictures of several studies at once: what coarse attention is worth, and what fine attention adds to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from lab.study.grid import Study
from lab.study.intervals import Estimate, difference, gain
from lab.study.plots import png
from lab.study.tables import Results, parse_row
from lab.study.variants import k_order, many, ways

_LOOKS: dict[str, dict[str, Any]] = {
    "refine": {"fmt": "o", "color": "C0"},
    "refine-window": {"fmt": "D", "color": "C2"},
    "gate": {"fmt": "s", "color": "C3"},
    "refine-random:0": {"fmt": "o", "color": "C0", "markerfacecolor": "white", "alpha": 0.6},
}
_OWN, _OTHER = {"fmt": "o", "color": "C0"}, {"fmt": "o", "color": "0.55"}
_TITLES = {
    "methods": "k = 0 against the reference of its table (blue: PST)",
    "fine": "k > 0 against plain training with k = 0",
}
_LINEAR = 4.0  # points on each side of zero before the scale becomes logarithmic
_STEP = 0.17  # of a row, between the marks in it


@dataclass(frozen=True)
class Line:
    """A row: its name, and what is drawn in it; a heading where nothing is."""

    name: str
    marks: tuple[tuple[Estimate, Mapping[str, Any]], ...] = ()


def overview(found: Sequence[tuple[Study, Results]], kind: str) -> bytes | None:
    """PNG of differences in points, with 95 % intervals over images and seeds; a row for each training.

    Args:
        found: Each study with its results, from `lab.study.tables.group`.
        kind: "methods": trainings with k = 0 against the reference of their table. "fine": the k with most ways of
            using the fine branch (k = 8 where several have as many) against plain training with k = 0 in the same
            model; recipes with one seed are left out. A comparison's ``overview`` names the data sets it has here;
            without it, all of them.

    Returns:
        None where nothing can be compared.
    """
    rows = list(lines(found, kind))
    if not rows:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    _draw(axes, rows)
    axes.set_title(_TITLES[kind])
    if kind == "fine":
        for name, look in _LOOKS.items():
            axes.errorbar([], [], [], label=name, capsize=2, markersize=5, **look)
        axes.legend(loc="lower right", fontsize=8)
    return png(figure, dpi=110)


def lines(found: Sequence[tuple[Study, Results]], kind: str) -> Iterator[Line]:
    """What the picture shows, from above; ``kind`` is that of its comparisons, "methods" or "fine"."""
    heading = ""
    for study, results in found:
        for comparison in study.comparisons:
            if comparison["kind"] != kind:
                continue
            every = list(dict.fromkeys(data for data, _, _ in results))
            for data in many(comparison.get("overview", comparison.get("data", every))):
                rows = list((_methods if kind == "methods" else _fine)(results, data, comparison))
                if rows and heading != (heading := f"{study.title}: {data}"):
                    yield Line(heading)
                yield from rows


def _methods(results: Results, data: str, comparison: Mapping[str, Any]) -> Iterator[Line]:
    """Models of a table, trained plainly and with k = 0, against its reference."""
    base = results.get((data, *parse_row(comparison["reference"])[:2]))
    for row in comparison["rows"]:
        seeds = results.get((data, *parse_row(row)[:2]))
        if base is not None and seeds is not None and row != comparison["reference"] and not set(row) & set("/:"):
            mark = (difference(seeds, "k0", base, "k0"), _OWN if "pst" in row else _OTHER)
            yield Line(f"{row} − {comparison['reference']} ({len(seeds)})", (mark,))


def _fine(results: Results, data: str, comparison: Mapping[str, Any]) -> Iterator[Line]:
    """Recipes of a model, each with k > 0, against plain training and k = 0."""
    model = comparison["model"]
    plain = results.get((data, model, "plain"))
    for (d, m, recipe), seeds in results.items():
        found = ways(seeds[0]["evaluations"]).get(None, {})
        if (d, m) != (data, model) or plain is None or len(seeds) < 2 or not found:
            continue
        counts = Counter(k for by_k in found.values() for k in by_k)
        k = min(counts, key=lambda k: (-counts[k], k != "8", k_order(k)))
        names = {way: found[way][k] for way in _LOOKS if k in found.get(way, {})}
        yield Line(
            f"{model}, {recipe}, k = {k} ({len(seeds)})",
            tuple(
                (gain(seeds, name) if seeds is plain else difference(seeds, name, plain, "k0"), _LOOKS[way])
                for way, name in names.items()
            ),
        )


def _draw(axes: Any, rows: Sequence[Line]) -> None:
    for y, line in enumerate(rows):
        if not line.marks:
            axes.text(0.01, y, line.name, transform=axes.get_yaxis_transform(), fontsize=8, weight="bold", va="center")
        for i, (estimate, look) in enumerate(line.marks):
            low, high = estimate.low or 0.0, estimate.high or 0.0  # the bootstrap always gives both
            bars = [[max(100 * (estimate.mean - low), 0.0)], [max(100 * (high - estimate.mean), 0.0)]]
            place = y + _STEP * (i - (len(line.marks) - 1) / 2)
            axes.errorbar(100 * estimate.mean, place, xerr=bars, capsize=2, markersize=5, linewidth=1, **look)
    axes.set_yticks([y for y, line in enumerate(rows) if line.marks], [line.name for line in rows if line.marks])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=1.5)
    axes.set_xticks(ticks := [-50, -10, -4, -2, 0, 2, 4, 10], [f"{t:+d}" if t else "0" for t in ticks])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("points; 95 % interval; in brackets the number of seeds")
