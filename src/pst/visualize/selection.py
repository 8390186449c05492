"""Overlays that show which coarse tokens each attention layer and head selected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pst.control import Selection
from pst.visualize._pillow import require_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

Color = tuple[int, int, int]

MAGENTA: Color = (255, 0, 190)  # rare in photos, so it stands out from most
_FIRST, _LAST = 0.72, 0.28  # opacity of the highest and of the lowest rank


class Panel(NamedTuple):
    """The overlay of one layer and head.

    Attributes:
        layer: Module name of the attention layer.
        head: 0 to h − 1.
        selection: Of the whole layer.
        image: RGB picture.
    """

    layer: str
    head: int
    selection: Selection
    image: Image


def selection_overlay(image: Image, selection: Selection, head: int, *, item: int = 0, color: Color = MAGENTA) -> Image:
    """Paint the coarse tokens that one head selected over the picture.

    Token (r, c) of the Hu×Wu map is the cell in row r and column c of a grid of as many equal cells laid over the
    picture. The highest score is painted strongest, the lowest faintest; the rest of the picture is left as it is.

    Args:
        image: The picture as the network saw it, any size, padding included.
        selection: From `pst.record_selection`.
        head: 0 to h − 1.
        item: Index in the batch.
        color: RGB, 0 to 255.

    Returns:
        A new RGB image of the same size.

    Raises:
        ImportError: Pillow is not installed.
        IndexError: ``head`` or ``item`` is out of range.
        ValueError: An edge of the picture has fewer pixels than the coarse map has cells, or its pixels have no fixed
            white.
    """
    require_pillow()
    from PIL import Image as PillowImage

    from pst.io.image_file import as_rgb

    image = as_rgb(image)
    tokens = _tokens(selection, head, item)
    rows, columns = selection.coarse_size
    if image.width < columns or image.height < rows:
        raise ValueError(
            f"a picture of {image.width}×{image.height} pixels is smaller than the coarse map of {columns}×{rows} "
            "cells: enlarge it first"
        )
    out = image.copy()
    for rank, token in enumerate(tokens):
        row, column = divmod(token, columns)
        box = (
            column * image.width // columns,
            row * image.height // rows,
            (column + 1) * image.width // columns,
            (row + 1) * image.height // rows,
        )
        cell = out.crop(box)
        out.paste(PillowImage.blend(cell, PillowImage.new("RGB", cell.size, color), _opacity(rank, len(tokens))), box)
    return out


def selection_panels(image: Image, records: Mapping[str, list[Selection]], *, item: int = 0) -> list[Panel]:
    """One `selection_overlay` for every layer and head, of each layer's latest forward pass.

    Args:
        image: The picture as the network saw it.
        records: From `pst.record_selection`; layers without a record (k = 0) give no panel.
        item: Index in the batch.

    Raises:
        ImportError: Pillow is not installed.
        IndexError: ``item`` is out of range.
        ValueError: Nothing was recorded, or the picture is smaller than a coarse map.
    """
    latest = {layer: passes[-1] for layer, passes in records.items() if passes}
    if not latest:
        raise ValueError("nothing was recorded: run the model inside record_selection with k > 0, see pst.use_topk")
    return [
        Panel(layer, head, selection, selection_overlay(image, selection, head, item=item))
        for layer, selection in latest.items()
        for head in range(selection.index.shape[1])
    ]


def _tokens(selection: Selection, head: int, item: int) -> list[int]:
    """Selected tokens, best rank first; those of all blocks of queries together, each once."""
    batch, heads = selection.index.shape[:2]
    for name, value, count in (("item", item, batch), ("head", head, heads)):
        if not 0 <= value < count:
            raise IndexError(f"{name} must be from 0 to {count - 1}, got {value}")
    ranks = selection.index[item, head].transpose(0, -1).flatten().tolist()
    return [token for token in dict.fromkeys(ranks) if token >= 0]


def _opacity(rank: int, count: int) -> float:
    return _FIRST if count == 1 else _FIRST + (_LAST - _FIRST) * rank / (count - 1)
