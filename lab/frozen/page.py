"""Makes docs/frozen.md from the result files: tables between markers and a picture; the prose around them stays."""

from __future__ import annotations

from pathlib import Path

from lab.frozen import tables
from lab.frozen.plots import found_against_time
from lab.frozen.rows import ROWS
from lab.page import replace_between
from pst.io.files import read_json, write_bytes, write_text

PAGE = "frozen.md"
PICTURE = "assets/frozen.png"
NOT_RUN = "Not run yet."
_BOXES = ("bccd", "voc")
PARTS = (
    *("p3", "p2", "fine", "trained", "trained-p2", "trained-fine"),
    *(f"{name}{kind}" for kind in ("", "-trained", "-fine", "-trained-fine") for name in _BOXES),
    "made",
)


def write_report(results: Path, out: Path) -> list[Path]:
    """Write the tables of the page, and its picture where latency was measured.

    Args:
        results: Folder of the result files.
        out: Folder of the page, which is there already, with its markers.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: There are no results, or no page.
        ValueError: The page lacks a marker.
    """
    page = check_page(out)
    text = page.read_text(encoding="utf-8")
    for name, content in parts(results).items():
        text = replace_between(text, marks(name), content, page)
    write_text(page, text)
    if not (latency := _latency(results)):
        return [page]
    picture = out / PICTURE
    picture.parent.mkdir(exist_ok=True)
    write_bytes(picture, found_against_time(tables.load(results, "camvid"), latency))
    return [page, picture]


def check_page(folder: Path) -> Path:
    """The page in its folder.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It lacks a marker.
    """
    page = folder / PAGE
    if not page.is_file():
        raise FileNotFoundError(f"no file {page}: its prose is written by hand, so give the folder that holds {PAGE}")
    text = page.read_text(encoding="utf-8")
    for name in PARTS:
        replace_between(text, marks(name), "", page)
    return page


def marks(name: str) -> tuple[str, str]:
    """The two lines that a generated part stands between."""
    return f"<!-- frozen {name} begin -->", f"<!-- frozen {name} end -->"


def parts(results: Path) -> dict[str, str]:
    """Every generated part of the page, by its name of `PARTS`.

    Raises:
        FileNotFoundError: There is no result of the frozen network on CamVid.
    """
    frozen, trained = tables.load(results, "camvid"), tables.load(results, "camvid", trained=True)
    if not frozen:
        raise FileNotFoundError(f"no results of CamVid in {results}: run `python -m lab frozen run --camvid DIR` first")
    found = {name: tables.load(results, name) for name in _BOXES}
    whole = {name: tables.load(results, name, trained=True) for name in _BOXES}
    latency, neck_latency = _latency(results), _latency(results, "boxes")
    return {
        "p3": _segmentation(frozen, "P3", latency),
        "p2": _segmentation(frozen, "P2", latency),
        "fine": tables.fine(frozen, "test"),
        "trained": _segmentation(trained, "P3", latency),
        "trained-p2": _segmentation(trained, "P2", latency),
        "trained-fine": tables.fine(trained, "test") if trained else NOT_RUN,
        **{name: tables.boxes(each, neck_latency) if each else NOT_RUN for name, each in found.items()},
        **{f"{name}-trained": tables.boxes(each, neck_latency) if each else NOT_RUN for name, each in whole.items()},
        **{f"{name}-fine": tables.fine(each, "val") if each else NOT_RUN for name, each in found.items()},
        **{f"{name}-trained-fine": tables.fine(each, "val") if each else NOT_RUN for name, each in whole.items()},
        "made": tables.made([frozen, trained, *found.values(), *whole.values()]),
    }


def _segmentation(results: tables.Results, group: str, latency: dict[str, dict[str, float]]) -> str:
    there = any(ROWS[name].group == group for name in results)
    return tables.segmentation(results, group, latency) if there else NOT_RUN


def _latency(results: Path, kind: str = "milliseconds") -> dict[str, dict[str, float]]:
    """Milliseconds of one picture by row, for each device where rows of this kind were measured."""
    records = [read_json(path) for path in sorted(results.glob("latency-*.json"))]
    return {record["device"]: record[kind]["1"] for record in records if kind in record}
