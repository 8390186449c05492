"""Makes docs/two-maps.md from the result files: tables and pictures between markers, the prose around them stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.page import replace_between
from lab.two_maps import colour, cost, matching, plan, plots, run_labels, run_trained, scales, tables, tool, tool_tables
from lab.two_maps.figures import Photos, Records, Sample, load, psnr, within
from lab.two_maps.networks import NETWORKS
from lab.two_maps.verdicts import SETTINGS, summary, verdicts
from pst.io.files import write_bytes, write_text

PAGE, ASSETS = "two-maps.md", "assets"
APART_ROWS = ("copy", "flow", "k0", "nearest", "window-8", "all")
FEW = ("k0", "mean", "random-window-0", "nearest", "window-8", "all")
FILES = (
    *(run_labels.file(network) for network in NETWORKS),
    colour.FILE,
    matching.FILE,
    run_trained.FILE,
    cost.FILE,
    scales.FILE,
    matching.SCALES,
)
BASES = ("k0", "random-window-0", "nearest", "flow")
NOT_RUN = "Not run yet."


def write_report(results: Path, out: Path) -> list[Path]:
    """Write the page and its pictures.

    Args:
        results: Folder of the result files.
        out: Folder of the page; it is there already, with its markers.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: There are no results of the first task, or no page.
        ValueError: The page lacks a marker, or a result file is damaged.
    """
    page = out / PAGE
    if not page.is_file():
        raise FileNotFoundError(f"no file {page}: the prose of the page is written by hand, so it cannot be made anew")
    text, pictures = page.read_text(encoding="utf-8"), pictures_of(results)
    for name, content in parts(results).items():
        text = replace_between(text, marks(name), content, page)
    for name, content in pictures.items():
        write_bytes(out / ASSETS / name, content)
    write_text(page, text)
    return [page, *(out / ASSETS / name for name in pictures)]


def marks(name: str) -> tuple[str, str]:
    """The two lines that a generated part stands between."""
    return f"<!-- two-maps {name} begin -->", f"<!-- two-maps {name} end -->"


def parts(results: Path) -> dict[str, str]:
    """Every generated part of the page, by name."""
    labels, others = _records(results, run_labels.file(plan.DEFAULT)), _records(results, run_labels.file("xfeat"))
    if labels is None:
        name = run_labels.file(plan.DEFAULT)
        raise FileNotFoundError(f"no {name} in {results}: run `python -m lab two-maps run` first")
    costs, learned = _records(results, cost.FILE), _records(results, run_trained.FILE)
    apart = [plan.setting("val", seconds) for seconds in plots.APART]
    apart = [setting for setting in apart if Sample(labels, setting).keys]
    shown = [setting for setting in SETTINGS if Sample(labels, setting).keys]
    return {
        "summary": summary(labels, costs),
        "verdicts": verdicts(labels, costs, learned),
        "labels": tables.main(labels, shown),
        "differences": tables.differences(labels, shown),
        "cost": NOT_RUN if costs is None else tables.costs_of(costs),
        "curve": tables.curve(labels, costs, SETTINGS[0]),
        "without": tables.without(labels, shown),
        "apart": tables.apart(labels, apart, APART_ROWS),
        "xfeat": NOT_RUN if others is None else _second(others),
        "trained": NOT_RUN if learned is None else tables.trained(learned, labels, shown),
        "matching": _matching(results),
        "colour": _colour(results),
        "tool": _tool(results, labels, tool_tables.against),
        "unknown": _tool(results, labels, lambda own, _: tool_tables.unknown(own)),
        "scales": _scales(results),
        "made": tables.environment(_files(results)),
    }


def pictures_of(results: Path) -> dict[str, bytes]:
    """PNG files by name."""
    labels, costs = _records(results, run_labels.file(plan.DEFAULT)), _records(results, cost.FILE)
    assert labels is not None  # `parts` was asked before
    made = {
        "two-maps-cost.png": plots.against_cost(labels, costs, SETTINGS[0]),
        "two-maps-apart.png": plots.against_time(labels, APART_ROWS),
    }
    return {name: content for name, content in made.items() if content is not None}


def _records(results: Path, name: str) -> Records | None:
    found = load(results, name)
    return None if found is None else found["records"]


def _second(records: Records) -> str:
    shown = [setting for setting in SETTINGS if Sample(records, setting).keys]
    return tables.main(records, shown, FEW) + "\n\n" + tables.differences(records, shown)


def _matching(results: Path) -> str:
    records = _records(results, matching.FILE)
    if records is None:
        return NOT_RUN
    columns = {f"within {most} px, %": Photos(records, within(i)) for i, most in enumerate(matching.WITHIN)}
    rows = ("copy", "flow", *FEW[:-1], "query-8", "dense-2", "all")
    return tables.simple(columns, rows) + "\n\n" + tables.gains(columns, BASES)


def _colour(results: Path) -> str:
    records = _records(results, colour.FILE)
    if records is None:
        return NOT_RUN
    titles = {"ab": "a and b, dB", "blurred": "RGB after a blur, dB", "rgb": "RGB, dB"}
    kinds = list(colour.KINDS)
    columns = {titles[kind]: Sample(records, "val-1", psnr(kinds.index(kind))) for kind in ("rgb", "ab", "blurred")}
    table = tables.simple(columns, ("copy", "flow", *FEW), digits=2)
    return table + "\n\n" + tables.gains(columns, BASES, digits=2)


def _scales(results: Path) -> str:
    records = _records(results, scales.FILE)
    if records is None:
        return NOT_RUN
    lines = [[kind, *(f"{v:.1f}" for v in r["miou"]), f"{scales.best(r['miou']):g}"] for kind, r in records.items()]
    return tables.markdown(["features", *(f"{c:g}" for c in scales.CANDIDATES), "chosen"], lines)


def _tool(results: Path, labels: Records, table: Callable[[Records, Records], str]) -> str:
    records = _records(results, tool.FILE)
    return NOT_RUN if records is None else table(records, labels)


def _files(results: Path) -> dict[str, dict[str, Any]]:
    found = {name: load(results, name) for name in FILES}
    return {name: content for name, content in found.items() if content is not None}
