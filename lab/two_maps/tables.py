"""The tables of the page, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.two_maps import cost, plan
from lab.two_maps.figures import Records, Sample, over_seeds, small
from lab.two_maps.resample import Estimate
from lab.two_maps.rows import RIVALS, ROWS
from lab.two_maps.trained import EVALUATED, RECIPES, SEEDS, UNTRAINED

MAIN = ("copy", "flow", "k0", "mean", "random-image-0", "random-window-0", "nearest", "window-8", "query-8", "all")
WHOLE = ("all", "all-plain")  # as the op, and as two plain products
RANDOM = tuple(f"random-{of}-{seed}" for of in ("image", "window") for seed in (0, 1, 2))
AGAINST = ("flow", "k0", "mean", *RANDOM, "nearest", "query-8", "dense-products", "dense-2")
WEIGHED = ("flow", "k0", "mean", "random-window-0", "nearest", "window-8", "window-32", "dense-2", "query-8", *WHOLE)
CURVE = ("k0", *(f"window-{k}" for k in (1, 2, 4, 8, 16, 32)), "all")
DENSE = ("dense-products", "dense-2", "ratio-2")
WITHOUT = ("mean", "centre", "dot", "half", "ratio-8", "ratio-2")
BASES = {"centre": "centre-k0", "dot": "dot-k0", "ratio-8": "ratio-8-k0", "ratio-2": "dense-2"}  # their own k = 0
SHORT = {"k0": "k = 0", "random-window-0": "random for each block", "nearest": "nearest", "flow": "flow"}
NONE = "–"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others figures."""
    rule = ["---", *(["---:"] * (len(header) - 1))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def interval(e: Estimate, *, sign: bool = False, digits: int = 1) -> str:
    """A figure and its interval, e.g. "+8.2 [7.7, 8.7]"."""
    value, low, high = (round(v, digits) + 0.0 for v in e)  # + 0.0: no minus before a zero
    head = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return f"{head} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


def title(row: str) -> str:
    """What a row is called."""
    if row == "all-plain":
        return "all fine positions, two plain products"
    seed = f", seed {row[-1]}" if row.startswith("random-") and not row.endswith("-0") else ""
    return RIVALS[row] if row in RIVALS else ROWS[row].title + seed


def main(records: Records, settings: Sequence[str], rows: Sequence[str] = MAIN) -> str:
    """Mean IoU and that of the small classes, for each split; rows of fewer pairs say so."""
    header, columns = ["row"], []
    for setting in settings:
        both = Sample(records, setting), Sample(records, setting, small)
        columns.append(both)
        header += [f"{setting_title(setting)}, {len(both[0].keys)} pairs: mIoU", "four small"]
    lines = []
    for row in rows:
        cells = [f"**{title(row)}**" if row == "window-8" else title(row)]
        for every, few in columns:
            size = every.size(row)
            note = "" if size == len(every.keys) else f" ({size} pairs)"
            cells += [interval(every.value(row)) + note, f"{few.value(row).value:.1f}"] if size else [NONE, NONE]
        lines.append(cells)
    return markdown(header, lines)


def apart(records: Records, settings: Sequence[str], rows: Sequence[str]) -> str:
    """Mean IoU alone, for each time between two frames."""
    samples = {setting: Sample(records, setting) for setting in settings}
    header = [f"{setting_title(name)}, {len(s.keys)} pairs" for name, s in samples.items()]
    lines = []
    for row in rows:
        cells = [f"**{title(row)}**" if row == "window-8" else title(row)]
        lines.append([*cells, *(interval(s.value(row)) if s.size(row) else NONE for s in samples.values())])
    return markdown(["mIoU", *header], lines)


def setting_title(setting: str) -> str:
    """E.g. "val, 1 s"."""
    split, _, seconds = setting.partition("-")
    return f"{split}, {seconds} s"


def differences(records: Records, settings: Sequence[str]) -> str:
    """What window k = 8 gains over each rival, in points of mIoU."""
    samples = [Sample(records, setting) for setting in settings]
    lines = [
        [title(base), *(_gain(s, "window-8", base) for s in samples)]
        for base in AGAINST
        if any(s.size("window-8", base) for s in samples)
    ]
    shares = [interval(s.share("window-8"), digits=0) for s in samples]
    lines.append(["share of the gain of all fine kept, %", *shares])
    return markdown(["window k = 8 against", *map(setting_title, settings)], lines)


def _gain(sample: Sample, row: str, base: str) -> str:
    size = sample.size(row, base)
    note = "" if size in (0, len(sample.keys)) else f" ({size} pairs)"
    return interval(sample.gain(row, base), sign=True) + note if size else NONE


def without(records: Records, settings: Sequence[str]) -> str:
    """One thing left out: the mean IoU, and the gain over the same with k = 0."""
    samples = [Sample(records, setting) for setting in settings]
    header = ["left out"]
    for setting in settings:
        header += [f"{setting_title(setting)}: against window k = 8", "gain over its own k = 0"]
    lines = []
    for row in WITHOUT:
        cells = [title(row)]
        for s in samples:
            cells += [_gain(s, row, "window-8"), _plain_gain(s, row, BASES.get(row, "k0"))]
        lines.append(cells)
    return markdown(header, lines)


def _plain_gain(sample: Sample, row: str, base: str) -> str:
    return interval(sample.gain(row, base), sign=True) if sample.size(row, base) else NONE


def curve(records: Records, costs: Records | None, setting: str) -> str:
    """Every k of window and the denser coarse maps: mean IoU, share of the gain, products, time."""
    sample = Sample(records, setting)
    lines = []
    for row in (*CURVE[:-1], *DENSE, "all"):
        if sample.size(row):
            share = sample.share(row).value
            lines.append([title(row), interval(sample.value(row)), f"{share:.0f} %", *_cost(costs, row)])
    return markdown(["row", f"{setting_title(setting)}: mIoU", "gain kept", "products", "time"], lines)


def _cost(costs: Records | None, row: str) -> list[str]:
    whole = ROWS["all"].products(cost.MAP)
    cells = [f"{100 * ROWS[row].products(cost.MAP) / whole:.1f} %"]
    times = None if costs is None else costs.get(f"time {plan.DEFAULT}")
    return [*cells, NONE if times is None or row not in times else f"{share_of_time(times, row):.1f} %"]


def share_of_time(times: Mapping[str, Any], row: str) -> float:
    """Percent of the time of all fine positions, of the faster of the two ways to attend to them."""
    return 100 * times[row]["ms"] / min(times[whole]["ms"] for whole in WHOLE)


def costs_of(costs: Records) -> str:
    """Products, time for both networks, and memory of the main rows."""
    whole = ROWS["all"].products(cost.MAP)
    times = {n: costs[f"time {n}"] for n in (plan.DEFAULT, "xfeat") if f"time {n}" in costs}
    memory = costs.get("memory", {})
    lines = []
    for row in WEIGHED:
        products = f"{100 * ROWS[row].products(cost.MAP) / whole:.1f} %" if row in ROWS else NONE
        found = [f"{t[row]['ms']:,.0f}" if row in t else NONE for t in times.values()]
        lines.append([title(row), products, *found, f"{memory[row]:.0f}" if row in memory else NONE])
    widths = {plan.DEFAULT: "176 channels", "xfeat": "64 channels"}
    return markdown(["row", "products", *(f"ms, {widths[n]}" for n in times), "peak memory, MB"], lines)


def trained(records: Records, labels: Records, settings: Sequence[str]) -> str:
    """Every recipe at every k, mean over seeds, and what fine attention adds; first the features as they are."""
    lines = []
    for setting in settings:
        first = f"{next(iter(RECIPES))}/{SEEDS[0]} "
        every = [key.removeprefix(first) for key in records if key.startswith(f"{first}{setting} ")]
        rows = {"nothing: all 176 channels": [Sample({key: labels[key] for key in every if key in labels}, setting)]}
        for recipe in (UNTRAINED, *RECIPES):
            name = "nothing: a random projection" if recipe == UNTRAINED else recipe.replace("=", " = ")
            rows[name] = [Sample(records, setting, prefix=f"{recipe}/{seed}") for seed in SEEDS]
        for name, samples in rows.items():
            samples = [s for s in samples if s.records]
            if samples:
                cells = [f"{over_seeds(samples, row).value:.1f}" for row in EVALUATED]
                gain = interval(over_seeds(samples, "window-8", "k0"), sign=True)
                lines.append([name, f"{setting_title(setting)}, {len(samples[0].keys)} pairs", *cells, gain])
    return markdown(["trained with", "on", "k = 0", "window k = 8", "all fine", "gain of k = 8 over k = 0"], lines)


def simple(samples: Mapping[str, Sample], rows: Sequence[str], digits: int = 1) -> str:
    """One column for each metric."""
    last = next(iter(samples.values()))
    lines = []
    for row in rows:
        if last.size(row):
            cells = [f"**{title(row)}**" if row == "window-8" else title(row)]
            lines.append([*cells, *(interval(s.value(row), digits=digits) for s in samples.values())])
    return markdown(["row", *samples], lines)


def gains(samples: Mapping[str, Sample], bases: Sequence[str], digits: int = 1) -> str:
    """What window k = 8 gains over some rows by each metric, and the share of the gain of all fine over k = 0."""
    lines = []
    for name, sample in samples.items():
        cells = [interval(sample.gain("window-8", base), sign=True, digits=digits) for base in bases]
        lines.append([name, *cells, f"{interval(sample.share('window-8'), digits=0)} %"])
    return markdown(["window k = 8 against", *(SHORT[base] for base in bases), "share of all fine's gain"], lines)


def environment(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each result file: machine, versions, commit, date."""
    lines = []
    for name, content in files.items():
        versions = ", ".join(f"{k} {content['versions'][k]}" for k in ("torch", "timm", "numpy"))
        machine = f"{content['hardware']['cpu']}, {content['hardware']['threads']} thread"
        commit = content["commit"][:7] + ("-dirty" if content["commit"].endswith("-dirty") else "")
        lines.append([f"`{name}`", str(len(content["records"])), machine, versions, commit, content["date"]])
    return markdown(["file", "records", "machine", "versions", "commit", "date"], lines)
