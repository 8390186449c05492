"""Tables of a study's results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.study.grid import Study
from lab.study.intervals import Estimate, difference, gain, value
from lab.study.variants import k_order, ways

Results = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]  # (data, model, recipe) -> seeds
_LIMITS = {
    "ultralytics": "√area over the image's longest side: small below 0.1, large from 0.25.",
    "detect": "COCO's limits: small below 32², large from 96² pixels.",
}


@dataclass(frozen=True)
class Table:
    """One table, cells as text.

    Attributes:
        title: One line.
        note: What the columns mean.
        header: Names of the columns.
        rows: The first column holds names.
        folded: Shown as its title alone until it is opened.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


def group(study: Study, results: Sequence[Mapping[str, Any]]) -> Results:
    """Results of a study by data, model and recipe; within each by seed."""
    wanted = {cell.id: cell for cell in study.cells}
    grouped: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for r in sorted(results, key=lambda r: r["seed"]):
        if r["id"] in wanted:
            grouped.setdefault((r["data"], r["model"], r["recipe"]), []).append(r)
    return grouped


def with_latency(
    results: Sequence[Mapping[str, Any]], study: str, found: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The results with ``latency``, which `lab study latency` measured: processor and batch -> variant -> ms per image.

    Args:
        results: Of the cells of one study.
        study: Its name.
        found: All files of the results folder.
    """
    files = [f for f in found if f.get("latency_of") == study]
    return [
        {
            **r,
            "latency": {
                f"{_processor(f)}, batch {f['batch']}": f["ms_per_image"].get(str(r["imgsz"]), {}).get(r["model"], {})
                for f in files
            },
        }
        for r in results
    ]


def _processor(measured: Mapping[str, Any]) -> str:
    """What a file's times were taken on."""
    hardware = measured["hardware"]
    return hardware["cpu"] if measured["device"] == "cpu" else " and ".join(hardware["gpus"])


def latency(seeds: Sequence[Mapping[str, Any]], variant: str) -> dict[str, float]:
    """Milliseconds per image by processor; "in the cell" where the study's latency was not measured apart."""
    apart = {device: ms[variant] for device, ms in seeds[0]["latency"].items() if variant in ms}
    inside = statistics.median(r["evaluations"][variant]["ms"] for r in seeds)
    return {"in the cell": inside} if len(apart) == 0 else apart


def methods(study: Study, results: Results, comparison: Mapping[str, Any]) -> Iterator[Table]:
    """Accuracy and cost of trainings beside a reference, one table for each data set.

    A row is written "model", "model/recipe" or "model/recipe:variant"; recipe "plain" and variant "k0" are left out.
    """
    for data in dict.fromkeys(cell.data for cell in study.cells):
        rows = []
        base = results.get((data, *parse_row(comparison["reference"])[:2]))
        base_variant = parse_row(comparison["reference"])[2]
        metric, devices = "", ""
        for row in comparison["rows"]:
            model, recipe, variant = parse_row(row)
            seeds = results.get((data, model, recipe))
            if seeds is None or variant not in seeds[0]["evaluations"]:
                continue
            metric, devices = seeds[0]["metric"], " / ".join(latency(seeds, variant))
            against = (
                "–"
                if base is None or row == comparison["reference"]
                else points(difference(seeds, variant, base, base_variant))
            )
            rows.append((row, *figures(value(seeds, variant)), against, *_cost(seeds, variant)))
        if rows:
            yield Table(
                f"{comparison['title']}: {data}",
                f"{metric} in percent, mean ± standard deviation over n seeds; "
                f"difference from {comparison['reference']} in points with a 95 % interval over images and seeds; "
                f"GFLOPs with attention counted; ms per image ({devices}); training in seconds; "
                "peak memory of the training in MB.",
                ("model", metric, "n", "difference", "parameters", "GFLOPs", "ms", "training", "peak"),
                tuple(rows),
            )


def fine(results: Results, comparison: Mapping[str, Any]) -> Iterator[Table]:
    """Gain of each way of using the fine branch over the same weights' k = 0, a column for each k."""
    for (data, model, recipe), seeds in results.items():
        if model != comparison["model"]:
            continue
        for imgsz, found in ways(seeds[0]["evaluations"]).items():
            base = "k0" if imgsz is None else f"k0@{imgsz}"
            ks = sorted({k for names in found.values() for k in names}, key=k_order)
            rows = [
                (way, *(points(gain(seeds, names[k], base)) if k in names else "" for k in ks))
                for way, names in found.items()
            ]
            mean = value(seeds, base)
            yield Table(
                f"{comparison['title']}: {model}, recipe {recipe}, {data}{'' if imgsz is None else f' at {imgsz} px'}",
                f"Gain over the same weights with k = 0 ({' '.join(figures(mean)[:1])} %, n = {mean.n}) in points of "
                f"{seeds[0]['metric']}, with a paired 95 % interval over images and seeds; * where it excludes zero."
                + _layers_note(seeds[0], found),
                ("way", *(f"k = {k}" for k in ks)),
                tuple(rows),
                folded=True,
            )


def by_size(results: Results, comparison: Mapping[str, Any]) -> Iterator[Table]:
    """Gains of k = 8 over k = 0 for small, medium and large objects."""
    for (data, model, recipe), seeds in results.items():
        found = ways(seeds[0]["evaluations"]).get(None, {})
        names = {way: by_k["8"] for way, by_k in found.items() if "8" in by_k}
        if model != comparison["model"] or not names or "small" not in seeds[0]["evaluations"]["k0"]:
            continue
        sizes = ("small", "medium", "large")
        rows = [(way, *(points(gain(seeds, name, field=s)) for s in sizes)) for way, name in names.items()]
        at_zero = ("k = 0 itself", *(f"{100 * value(seeds, 'k0', s).mean:.2f}" for s in sizes))
        yield Table(
            f"{comparison['title']} by object size: {model}, recipe {recipe}, {data}",
            "k = 8 against the same weights with k = 0, points of mAP50-95, ± standard deviation over seeds. "
            + _LIMITS[seeds[0]["runner"]]
            + _layers_note(seeds[0], names),
            ("way", *sizes),
            (at_zero, *rows),
            folded=True,
        )


def parse_row(row: str) -> tuple[str, str, str]:
    """ "model/recipe:variant" -> the three, with their defaults."""
    rest, _, variant = row.partition(":")
    model, _, recipe = rest.partition("/")
    return model, "plain" if recipe == "" else recipe, "k0" if variant == "" else variant


def points(estimate: Estimate) -> str:
    """A difference in percentage points: "+0.31 [−0.10, +0.72]", with a star where the interval excludes zero."""
    text = f"{100 * estimate.mean:+.2f}"
    if estimate.low is not None and estimate.high is not None:
        star = "\\*" if estimate.excludes_zero else ""
        return f"{text} [{100 * estimate.low:+.2f}, {100 * estimate.high:+.2f}]{star}"
    return text if estimate.sd is None else f"{text} ± {100 * estimate.sd:.2f}"


def figures(estimate: Estimate) -> tuple[str, str]:
    """Mean ± standard deviation in percent, and n."""
    spread = "" if estimate.sd is None else f" ± {100 * estimate.sd:.2f}"
    return f"{100 * estimate.mean:.2f}{spread}", str(estimate.n)


def _cost(seeds: Sequence[Mapping[str, Any]], variant: str) -> tuple[str, ...]:
    counted = seeds[0]["gflops"]
    flops = counted.get(variant)
    return (
        f"{seeds[0]['parameters']:,}",
        "–" if flops is None else f"{flops:.3f}",
        " / ".join(f"{ms:.2f}" for ms in latency(seeds, variant).values()),
        f"{statistics.fmean(r['training']['seconds'] for r in seeds):.0f}",
        f"{statistics.fmean(r['training']['peak_memory_mb'] for r in seeds):.0f}",
    )


def _layers_note(result: Mapping[str, Any], shown: Iterable[str]) -> str:
    """What (k, 0) in the names of ways means; nothing where no way has it."""
    if not any(way.endswith(")") for way in shown):
        return ""
    return f" In brackets, k of each attention layer: {', '.join(result['layers'])}."
