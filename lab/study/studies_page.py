"""The report of one or more studies: Markdown between markers of a page, one HTML file, PNG files."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lab.page import replace_between
from lab.study import plots, tables
from lab.study.grid import Study, load_study
from lab.study.overview import overview
from lab.study.tables import Results, Table
from lab.study.variants import many
from pst.io.files import check_ours, read_json, replacing, write_text

PAGE = "studies.md"
_ASSETS = "assets/study"
_OVERVIEW = "overview"
_TITLE = "PST: studies"
_STYLE = (
    "body{font:15px sans-serif;max-width:75em;margin:2em auto;padding:0 1em}img{max-width:100%}"
    "table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
)

Part: TypeAlias = "Table | tuple[str, bytes]"  # a picture is its file name and PNG


def write_report(studies: Sequence[str | Path], *, results: str | Path, out: str | Path) -> list[Path]:
    """Write tables and plots of every study.

    ``out/studies.md`` is made when it is missing. Otherwise only what stands in it between the markers
    ``<!-- study NAME begin -->`` and ``<!-- study NAME end -->`` is replaced, so that the prose around it stays.
    Several studies also get pictures of them all, under the name "overview".

    Args:
        studies: Their YAML files.
        results: Folder of the result files, searched with all folders in it.
        out: Folder of the page, of ``studies.html`` and of ``assets/study``.

    Returns:
        The files written.

    Raises:
        FileExistsError: ``studies.html`` is of another program.
        FileNotFoundError: No results of any of the studies.
        ValueError: A study is malformed, a result was made with other settings, or the page has no markers for a study.
    """
    out, found = Path(out), _load(Path(results))
    check_ours(out / "studies.html", f"<title>{_TITLE}</title>")
    loaded = list(map(load_study, studies))
    grouped = [
        (study, tables.group(study, tables.with_latency(_fitting(study, found), study.name, found))) for study in loaded
    ]
    sections: dict[str, list[Part]] = {study.name: list(_parts(study, results)) for study, results in grouped}
    if not any(sections.values()):
        raise FileNotFoundError(
            f"no results of {[str(s) for s in studies]} in {results}: run `python -m lab study run` first"
        )
    if len(grouped) > 1:
        pngs = {kind: overview(grouped, kind) for kind in ("methods", "fine")}
        sections = {_OVERVIEW: [(f"{_OVERVIEW}-{kind}.png", png) for kind, png in pngs.items() if png], **sections}
    page = out / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else _empty_page(list(sections))
    for name, parts in sections.items():
        text = replace_between(text, _marks(name), "\n\n".join(_markdown(part) for part in parts), page)
    pictures = [part for parts in sections.values() for part in parts if not isinstance(part, Table)]
    for name, png in pictures:
        with replacing(out / _ASSETS / name) as part:
            part.write_bytes(png)
    write_text(page, text)
    write_text(out / "studies.html", _html(sections))
    return [page, out / "studies.html", *(out / _ASSETS / name for name, _ in pictures)]


def _load(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    return [read_json(path) for path in sorted(folder.rglob("*.json"))]


def _fitting(study: Study, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of the study's cells, made with its settings."""
    cells = {cell.id: cell for cell in study.cells}
    own = [r for r in found if r.get("id") in cells]
    other = [r["id"] for r in own if not cells[r["id"]].made(r)]
    if other:
        raise ValueError(
            f"results of {other} were made with other settings or model files than {study.name}.yaml has: "
            "run them again"
        )
    return own


def _parts(study: Study, every: Results) -> Iterator[Part]:
    for i, comparison in enumerate(study.comparisons):
        wanted = many(comparison.get("data", [data for data, _, _ in every]))
        grouped = {key: seeds for key, seeds in every.items() if key[0] in wanted}
        if comparison["kind"] == "methods":
            yield from tables.methods(study, grouped, comparison)
        else:
            yield from tables.fine(grouped, comparison)
            yield from tables.by_size(grouped, comparison)
        for data in dict.fromkeys(data for data, _, _ in grouped):
            png = (
                plots.accuracy_against_cost(grouped, data, comparison["rows"])
                if comparison["kind"] == "methods"
                else plots.accuracy_against_k(grouped, data, comparison["model"])
            )
            if png is not None:
                yield f"{study.name}-{i}-{data}.png", png


def _empty_page(names: Sequence[str]) -> str:
    return "# Evidence\n" + "".join("\n{}\n{}\n".format(*_marks(name)) for name in names)


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- study {name} begin -->", f"<!-- study {name} end -->"


def _markdown(part: Part) -> str:
    if not isinstance(part, Table):
        return f"![{part[0].removesuffix('.png')}]({_ASSETS}/{part[0]})"
    rule = ["---", *(["---:"] * (len(part.header) - 1))]
    lines = ["| " + " | ".join(cells) + " |" for cells in (part.header, rule, *part.rows)]
    below = f"\n\n{part.note}\n\n" + "\n".join(lines)
    if part.folded:
        return f'<details markdown="1"><summary>{html.escape(part.title)}</summary>{below}\n\n</details>'
    return f"**{part.title}**{below}"


def _html(sections: dict[str, list[Part]]) -> str:
    body = "".join(_html_part(part) for parts in sections.values() for part in parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_TITLE}</title><style>{_STYLE}</style>'
        f"<h1>{_TITLE}</h1>{body}</html>\n"
    )


def _html_part(part: Part) -> str:
    if not isinstance(part, Table):
        name, png = part
        return f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
    rows = [[html.escape(cell.replace("\\*", "*")) for cell in row] for row in (part.header, *part.rows)]
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[1:])
    title, table = html.escape(part.title), f"<p>{html.escape(part.note)}</p><table><tr>{head}</tr>{body}</table>"
    return f"<details><summary>{title}</summary>{table}</details>" if part.folded else f"<h2>{title}</h2>{table}"
