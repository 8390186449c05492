"""The report: one HTML file with everything in it, no script and nothing to load."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

if TYPE_CHECKING:
    from pst.demo.pictures import Scene
    from pst.demo.two_views import TwoViews
    from pst.integrations.ultralytics import SweepRow

_TEMPLATE = Path(__file__).with_name("report.html")
_CURVES = ("Losses over the epochs", "Validation mAP over the epochs")
_OVERLAYS = 3  # scenes whose selections are shown
_PANEL = 384  # pixels of an enlarged overlay, about
_NOTHING = 0.0005  # mAP50 below which the report's three decimals are zeros


def render_report(
    *,
    headline: Mapping[str, str],
    rows: Sequence[SweepRow],
    curves: Sequence[bytes],
    scenes: Sequence[Scene],
    views: TwoViews,
    facts: Mapping[str, str],
) -> str:
    """Fill the template; every text is escaped.

    Args:
        headline: A few large figures by what they are.
        rows: Of the table, in its order.
        curves: PNGs of the losses and of the mAP.
        scenes: Validation pictures; the first three show their selections too.
        views: A photo with its regions, and what was carried to another view of it.
        facts: What was run and on what, by name.

    Returns:
        The HTML page.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"jpeg": _jpeg, "enlarge": _enlarge, "layer_title": layer_title}
    return environment.get_template(_TEMPLATE.name).render(
        headline=headline,
        rows=rows,
        nothing_learned=bool(rows) and all(row.map50 < _NOTHING for row in rows),
        curves=[(_data_uri(picture, "png"), what) for picture, what in zip(curves, _CURVES, strict=True)],
        scenes=scenes,
        views=views,
        overlays=_OVERLAYS,
        facts=facts,
    )


def layer_title(name: str) -> str:
    """Short title of an attention layer: "model.model.11.blocks.0.attn" is "layer 11, block 0"."""
    found = re.search(r"(\d+)\.blocks\.(\d+)\.attn$", name)
    return name if found is None else f"layer {found[1]}, block {found[2]}"


def _enlarge(image: Image.Image) -> Image.Image:
    scale = max(1, round(_PANEL / image.width))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88, subsampling=0)
    return _data_uri(out.getvalue(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
