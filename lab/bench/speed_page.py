"""Benchmarks as tables: for a terminal of 100 columns, and for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = tuple[str, ...]
Table = tuple[Row, list[Row]]


def targets_table(judged: Sequence[dict[str, Any]]) -> Table:
    """One row for each record of `lab.bench.targets.judge`."""
    header = ("target", "wanted", "here", "met", "worst at")
    return header, [
        (
            r["what"],
            f"{r['sense']} {_factor(r['bound'])}",
            "–" if r["value"] is None else _factor(r["value"]),
            {None: "not measured", True: "yes"}.get(r["met"]) or f"no, by {100 * r['missed_by']:.0f} %",
            "–" if r["where"] is None else r["where"],
        )
        for r in judged
    ]


def cases_table(records: Sequence[dict[str, Any]]) -> Table:
    """Attention or layer against the textbook's; share: of the least time, that products and exponentials take."""
    header = ("N", "C", "k", "pst ms", "10-90 %", "textbook ms", "speed-up", "share", "op share", "pst MB", "textb. MB")
    return _filled(
        header,
        [
            (
                str(r["n"]),
                str(r["channels"]),
                str(r["topk"]),
                f"{r['pst_ms']['median']:.2f}",
                _spread(r["pst_ms"]),
                f"{r['textbook_ms']['median']:.2f}",
                f"{r['speedup']:.2f}×",
                f"{100 * r['share']:.0f} %",
                f"{100 * r['op_share']:.0f} %" if "op_share" in r else "–",
                f"{r['pst_mb']:.1f}" if "pst_mb" in r else "–",
                f"{r['textbook_mb']:.1f}" if "textbook_mb" in r else "–",
            )
            for r in records
        ],
    )


def models_table(records: Sequence[dict[str, Any]]) -> Table:
    """Models, rivals or interpreters: time, and ratio to the first of each group; no empty columns."""
    header = ("", "ms", "10-90 %", "ratio", "MB", "parameters", "GFLOPs", "least ms", "share")
    return _filled(header, [_model_row(r) for r in records])


def _model_row(r: dict[str, Any]) -> Row:
    if "skipped" in r:
        return f"{r['name']}: {r['skipped']}", *8 * ("–",)
    return (
        f"{r['name']}, {r['runtime']}" if "runtime" in r else r["name"],
        f"{r['ms']['median']:.1f}",
        _spread(r["ms"]),
        f"{r['ratio']:.2f}×",
        f"{r['mb']:.1f}" if "mb" in r else "–",
        f"{r['parameters']:,}" if "parameters" in r else "–",
        f"{r['gflops']:.2f}" if "gflops" in r else "–",
        f"{r['least_ms']:.1f}" if "least_ms" in r else "–",
        f"{100 * r['share']:.0f} %" if "share" in r else "–",
    )


def tables(suite: Mapping[str, Any]) -> dict[str, Table]:
    """Title -> table of what `lab.bench.measure_suite` returned."""
    titles = {
        "module": "Attention in eval mode against the textbook's",
        "train": "Training step of a PST layer against the textbook's",
        "window": "Attention to another frame: N = 10,560, M = 660, d = 64, one thread",
        "bounded": "Bounded coarse tokens: a PST layer at 80×80 over 40×40, necks at 640 px, a neck as images grow",
        "model": "Whole detectors, eager, batch norms folded",
        "export": "Whole detectors as exported files",
        "import": "Import, fresh interpreters",
    }
    name = suite["suite"]
    build = cases_table if name in ("module", "train") else models_table
    return {titles[name]: build(suite["records"])} | {
        f"Rivals: {group}": models_table(records) for group, records in suite.get("rivals", {}).items()
    }


def machine(suite: Mapping[str, Any]) -> str:
    """The processor that a suite was measured on, and its threads."""
    hardware = suite["hardware"]
    device = hardware["cpu"] if suite["settings"]["device"] == "cpu" else ", ".join(hardware["gpus"])
    return f"{device}, {hardware['threads']} threads"


def origin(suite: Mapping[str, Any]) -> str:
    """One line: where, with what and when a suite was measured, and the peaks of that machine."""
    versions, peaks = suite["versions"], suite["roofline"]
    return (
        f"{machine(suite)}, torch {versions['torch']}, commit {str(suite['commit'])[:12]}, "
        f"{suite['created']}; peaks: {peaks['matmul_gflops']:.0f} GFLOP/s, {peaks['exp_gops']:.2f}·10⁹ exp/s, "
        f"{peaks['copy_gbs']:.0f} GB/s"
    )


def markdown(table: Table) -> str:
    """A table for the documentation, first column to the left and the others to the right."""
    header, rows = table
    lines = [header, ("---", *("--:" for _ in header[1:])), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def page_part(judged: Sequence[dict[str, Any]], suites: Mapping[str, Mapping[str, Any]], plots: Sequence[str]) -> str:
    """The generated part of docs/speed.md: targets, then every table with its origin, then the plots."""
    machines = "; ".join(dict.fromkeys(machine(suite) for suite in suites.values()))
    parts = ["## Targets", f"Measured on: {machines}.", markdown(targets_table(judged))]
    for suite in suites.values():
        for title, table in tables(suite).items():
            parts += [f"## {title}", origin(suite), markdown(table)]
    pictures = [f"![Time and memory against N: pst solid, textbook dashed]({path})" for path in plots]
    return "\n\n".join([*parts, *(["## Plots"] if pictures else []), *pictures])


def _filled(header: Row, rows: list[Row]) -> Table:
    """The table without the columns that hold nothing."""
    kept = [i for i in range(len(header)) if any(row[i] != "–" for row in rows)]
    return tuple(header[i] for i in kept), [tuple(row[i] for i in kept) for row in rows]


def _spread(ms: Mapping[str, float]) -> str:
    digits = 2 if ms["median"] < 10 else 0
    return f"{ms['low']:.{digits}f}-{ms['high']:.{digits}f}"


def _factor(value: float) -> str:
    return f"{value:.2f}×" if value >= 0.5 else f"{value:.3f}×"
