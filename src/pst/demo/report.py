"""The report: one HTML file with everything in it, no script and nothing to load."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from PIL import Image

from pst.visualize import Panel

if TYPE_CHECKING:
    from pst.demo.pictures import Scene
    from pst.integrations.ultralytics import SweepRow

_TEMPLATE = Path(__file__).with_name("report.html")
_OVERLAYS = 3  # scenes whose selections are shown
_PANEL = 384  # pixels of an enlarged overlay, about


def render_report(
    *,
    headline: Mapping[str, str],
    rows: Sequence[SweepRow],
    curves: bytes,
    scenes: Sequence[Scene],
    facts: Mapping[str, str],
) -> str:
    """Fill the template.

    Args:
        headline: A few large figures by what they are.
        rows: Of the table, in its order.
        curves: PNG.
        scenes: Validation pictures; the first three show their selections too.
        facts: What was run and on what, by name.

    Returns:
        The HTML page.
    """
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        headline="\n".join(_figure(name, value) for name, value in headline.items()),
        rows="\n".join(_row(row) for row in rows),
        curves=_data_uri(curves, "png"),
        scenes="\n".join(_scene(scene) for scene in scenes),
        selections="\n".join(_selections(scene) for scene in scenes[:_OVERLAYS]),
        facts="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()),
    )


def _figure(name: str, value: str) -> str:
    return f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>"


def _row(row: SweepRow) -> str:
    fusion = "coarse only" if row.topk == 0 else str(row.fusion)
    cells = [
        f"{row.map50_95:.4f}",
        f"{row.map50:.4f}",
        f"{row.latency_ms:.1f}",
        f"{row.peak_memory_mb:.0f}",
    ]
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><td>{row.topk}</td><td class=text>{escape(fusion)}</td>{numbers}</tr>"


def _scene(scene: Scene) -> str:
    truth, predicted = (_picture(image, "") for image in (scene.truth, scene.predicted))
    captions = f"<span>{escape(scene.name)}: labels</span><span>predicted, k = 0</span>"
    return f"<figure class=pair>{truth}{predicted}<figcaption>{captions}</figcaption></figure>"


def _selections(scene: Scene) -> str:
    panels = "\n".join(_panel(panel) for panel in scene.panels)
    return f"<h3>{escape(scene.name)}</h3><div class=panels>{panels}</div>"


def _panel(panel: Panel) -> str:
    (rows, columns), (height, width) = panel.selection.coarse_size, panel.selection.fine_size
    scale = max(1, round(_PANEL / panel.image.width))
    image = panel.image.resize((panel.image.width * scale, panel.image.height * scale), Image.Resampling.BICUBIC)
    title = f"{layer_title(panel.layer)}, head {panel.head}"
    count = panel.selection.index.shape[-1]
    sizes = f"{count} of {rows}×{columns} coarse tokens, over {height}×{width} fine ones"
    return (
        f"<figure>{_picture(image, title)}<figcaption><b>{escape(title)}</b><br>{escape(sizes)}</figcaption></figure>"
    )


def layer_title(name: str) -> str:
    """Short title of an attention layer: "model.model.11.blocks.0.attn" is "layer 11, block 0"."""
    found = re.search(r"(\d+)\.blocks\.(\d+)\.attn$", name)
    return name if found is None else f"layer {found[1]}, block {found[2]}"


def _picture(image: Image.Image, alt: str) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88, subsampling=0)
    uri = _data_uri(out.getvalue(), "jpeg")
    return f'<img src="{uri}" alt="{escape(alt)}" width={image.width} height={image.height}>'


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
