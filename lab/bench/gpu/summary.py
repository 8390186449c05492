"""What the GPU benchmark found, as tables for a terminal and for docs/speed.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lab.bench.speed_page import Row, Table

Records = list[dict[str, Any]]


def tables(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Table]]:
    """(title, table) of each section that has figures to show; records that failed are left out."""
    makers = {"window": _window, "dispatch": _dispatch, "bounded": _bounded, "detectors": _models,
              "classifiers": _models, "graphs": _ways, "compiled": _ways}  # fmt: skip
    for name, make in makers.items():
        records = [r for r in sections.get(name, {}).get("records", []) if "error_text" not in r]
        if records:
            yield name, make(records)


def _window(records: Records) -> Table:
    header = ("dtype", "implementation", "row", "ms", "GPU's ms", "MB", "wanted")
    rows: list[Row] = []
    for r in records:
        for name, row in r["rows"].items():
            ratios = (f"{what} {w['ratio']:.2f} (≤ {w['at most']})" for what, w in r["wanted"].items() if w["ratio"])
            figures = (_ms(row["ms"]), _number(row.get("gpu_ms")), _number(row.get("mb")))
            rows.append((_dtype(r), r["impl"], name, *figures, ", ".join(ratios) if name == "window k = 8" else ""))
    return header, rows


def _dispatch(records: Records) -> Table:
    header = ("dtype", "mode", "gradients", "Triton faster from", "table", "speed-ups by log2 of the logits")
    return header, [
        (_dtype(r), r["mode"], "yes" if r["train"] else "no", f"{r['least'] or '–'}", f"{r['table'] or '–'}",
         " ".join(f"{rung['logits'].bit_length() - 1}:{rung['speedup']:.2f}" for rung in r["rungs"]))
        for r in records
    ]  # fmt: skip


def _bounded(records: Records) -> Table:
    header = ("what", "dtype", "k", "images", "training", "row", "ms", "MB", "ratio or per pixel")
    rows: list[Row] = []
    for r in records:
        pixels = ", ".join(f"{what} {r[what]:.2f}" for what in ("time per pixel", "memory per pixel") if what in r)
        for name, row in r["rows"].items():
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else pixels
            case = (r["what"], _dtype(r), str(r["topk"]), str(r.get("batch", 1)), "yes" if r.get("train") else "no")
            rows.append((*case, name, _ms(row["ms"]), _number(row.get("mb")), ratio))
    return header, rows


def _models(records: Records) -> Table:
    header = ("dtype", "images", "model", "ms", "ratio")
    return header, [
        (_dtype(r), str(r["batch"]), model["name"], _ms(model["ms"]), f"{model['ratio']:.2f}")
        for r in records
        for model in r["models"]
    ]


def _ways(records: Records) -> Table:
    """A layer eager, and compiled or as a CUDA graph."""
    header = ("dtype", "settings", "eager ms", "other ms", "error")
    told = ("impl", "train", "topk", "fusion", "selection", "max_tokens", "mode")
    return header, [
        (_dtype(r), ", ".join(f"{name}={r[name]}" for name in told if name in r), _ms(r["eager_ms"]),
         _ms(r["graph_ms"] if "graph_ms" in r else r["compiled_ms"]), f"{r['error']:.1e}")
        for r in records
    ]  # fmt: skip


def _dtype(record: Mapping[str, Any]) -> str:
    return record["dtype"].removeprefix("torch.")


def _ms(times: Mapping[str, float]) -> str:
    return _number(times["median"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
