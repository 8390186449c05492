"""Building a model whose YAML has PST rows with Ultralytics' own, unchanged parser.

``parse_model`` resolves row names in its own module and knows no row of ours with several inputs. So it is given a
copy in which each row of ours is a one-input row of the same, already scaled width, followed by one BatchNorm2d per
source of it: their widths are read off, they are dropped, and our layers take their places.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils import LOGGER
from ultralytics.utils.ops import make_divisible

from pst.integrations.ultralytics import compat
from pst.integrations.ultralytics.layer import PSTRow
from pst.io.versions import HostError
from pst.modules.settings import Options

ParseModel = Callable[..., tuple[nn.Sequential, list[int]]]
ROW_NAME = "PST"
_OPTIONS = {*Options.__annotations__, "head_dim"}


class Row(NamedTuple):
    """One row of ours, read and scaled."""

    number: int
    name: str
    sources: tuple[int, ...]  # absolute layer indices; of a PST row (x, upper)
    from_: list[int]  # as written
    out_channels: int
    options: dict[str, Any]


def parse(original: ParseModel, d: dict[str, Any], ch: int, verbose: bool = True) -> tuple[nn.Sequential, list[int]]:
    """``parse_model`` that also knows ``[[x, upper], repeats, PST, [out_channels, mlp_ratio, expansion, {options}]]``.

    ``out_channels`` is scaled by width and ``repeats`` (the depth) by depth, as for any Ultralytics row. The options
    are ``head_dim`` and those of `pst.modules.Settings`. A YAML without such rows goes straight to ``original``.

    Args:
        original: Ultralytics' own ``parse_model``.
        d: Model dictionary, as `ultralytics.nn.tasks.yaml_model_load` returns it.
        ch: Image channels.
        verbose: Whether to log one line for each layer.

    Returns:
        The layers, and the sorted indices of those whose output a later row uses.

    Raises:
        ValueError: A row of ours is malformed; the message holds the row.
    """
    rows = d["backbone"] + d["head"]
    own = [KINDS[row[2]].read(d, i, row) for i, row in enumerate(rows) if row[2] in KINDS]
    if not own:
        return original(d, ch, verbose)

    layers, activation = _host_layers(original, d, ch, own)
    probes = iter(layers[len(rows) :])
    default_act, Conv.default_act = Conv.default_act, activation
    try:
        for row in own:
            layers[row.number] = _build(row, [int(next(probes).num_features) for _ in row.sources])
    finally:
        Conv.default_act = default_act
    layers = layers[: len(rows)]
    if verbose:
        _log(layers)
    return nn.Sequential(*layers), _save_list(rows)


def check(original: ParseModel) -> None:
    """Build a small model, on the meta device, to see that the host's parser does what `parse` relies on.

    Raises:
        HostError: It does not; the message names the tested versions.
    """
    rows = [[-1, 1, "Conv", [8]], [-1, 1, "Conv", [16]], [[0, 1], 1, ROW_NAME, [32, 2.0, 1.0]], [-1, 1, "Conv", [8]]]
    try:
        with torch.device("meta"):
            layers, save = parse(original, {"backbone": rows[:2], "head": rows[2:]}, 3, verbose=False)
        pst, conv = list[Any](layers)[-2:]
        found = (pst.in_channels, pst.upper_channels, conv.conv.in_channels, save)
    except HostError:
        raise
    except Exception as error:  # whatever the host does now: it is no longer what it was
        raise compat.incompatible("parse_model", repr(error)) from error
    if found != (8, 16, 32, [0, 1]):
        raise compat.incompatible("parse_model", f"widths and rows in use are {found}, wanted (8, 16, 32, [0, 1])")


def _host_layers(original: ParseModel, d: dict[str, Any], ch: int, own: list[Row]) -> tuple[list[Any], Any]:
    """Layers of the host's parser with stand-ins for rows of ours, then a probe for each source; and its activation."""
    d = copy.deepcopy(d)
    rows = d["backbone"] + d["head"]
    for row in own:
        rows[row.number] = [row.sources[0], 1, "Index", [row.out_channels]]
    probes = [[source, 1, "nn.BatchNorm2d", []] for row in own for source in row.sources]
    d["backbone"], d["head"] = [], rows + probes + [[0, 1, "Conv", [8, 1]]]  # this one for the YAML's activation
    *layers, conv = original(d, ch, False)[0]
    _verify([layers[row.number] for row in own], "Index")
    _verify(layers[-len(probes) :], "BatchNorm2d")
    return layers, conv.act


def _verify(layers: list[Any], kind: str) -> None:
    """Raise HostError unless the host's parser made layers of that class for the rows of ours."""
    for layer in layers:
        if type(layer).__name__ != kind:
            raise compat.incompatible("parse_model", f"a row {kind} gave a {type(layer).__name__}")


def _read_pst(d: dict[str, Any], index: int, row: list[Any]) -> Row:
    """Check one PST row and scale its width and depth."""
    from_, repeats, _, args = row
    options = dict(args[-1]) if args and isinstance(args[-1], dict) else {}
    numbers = args[: len(args) - bool(options)]
    if not isinstance(from_, list) or len(from_) != 2 or not 1 <= len(numbers) <= 3 or options.keys() - _OPTIONS:
        raise ValueError(
            f"row {index} {row} is not a PST row: "
            "wanted [[x, upper], repeats, PST, [out_channels, mlp_ratio, expansion]], "
            f"the last argument optionally a mapping with any of {sorted(_OPTIONS)}"
        )
    depth, _, _ = _scale(d)
    out_channels, mlp_ratio, expansion = (*numbers, *(2.0, 0.5)[len(numbers) - 1 :])
    options |= {
        "depth": max(round(repeats * depth), 1) if repeats > 1 else repeats,
        "mlp_ratio": mlp_ratio,
        "expansion": expansion,
    }
    return scaled_row(d, index, row, out_channels, options)


def scaled_row(d: dict[str, Any], index: int, row: list[Any], channels: float, options: dict[str, Any]) -> Row:
    """The row with absolute sources and scaled width."""
    _, width, max_channels = _scale(d)
    sources = tuple(source if source >= 0 else index + source for source in row[0])
    out_channels = int(make_divisible(min(channels, max_channels) * width, 8))
    return Row(index, row[2], sources, row[0], out_channels, options)


def _scale(d: dict[str, Any]) -> tuple[float, float, float]:
    """(depth, width, max_channels) that the host's parser uses for this dictionary."""
    scales = d.get("scales")
    if scales:
        return scales[d.get("scale") or next(iter(scales))]
    return d.get("depth_multiple", 1.0), d.get("width_multiple", 1.0), float("inf")


def _build_pst(row: Row, widths: list[int]) -> PSTRow:
    x, upper = widths
    return PSTRow(x, upper, row.out_channels, **row.options)


class Kind(NamedTuple):
    """What a row name of ours stands for.

    Attributes:
        read: Checks a row as written and scales it: (model dictionary, number, row) -> `Row`.
        build: Makes the layer, for sources of these widths.
        layer: Its class.
    """

    read: Callable[[dict[str, Any], int, list[Any]], Row]
    build: Callable[[Row, list[int]], nn.Module]
    layer: type[nn.Module]


KINDS = {ROW_NAME: Kind(_read_pst, _build_pst, PSTRow)}  # a project with rows of its own may add to it


def _build(row: Row, widths: list[int]) -> nn.Module:
    """The layer, with what the host's parser sets on it."""
    layer: Any = KINDS[row.name].build(row, widths)
    layer.i, layer.f, layer.type = row.number, row.from_, f"{type(layer).__module__}.{type(layer).__qualname__}"
    layer.np = sum(p.numel() for p in layer.parameters())
    return layer


def _save_list(rows: list[list[Any]]) -> list[int]:
    """Sorted indices of the layers that a later row takes its input from, as the host computes them."""
    save: set[int] = set()
    for i, (from_, *_) in enumerate(rows):
        save.update(f % i for f in ([from_] if isinstance(from_, int) else from_) if f != -1)
    return sorted(save)


def _log(layers: list[Any]) -> None:
    """The host's table of layers: index, from, parameters, module."""
    LOGGER.info(f"\n{'':>3}{'from':>20}{'params':>10}  {'module':<45}")
    for m in layers:
        LOGGER.info(f"{m.i:>3}{m.f!s:>20}{m.np:10.0f}  {m.type:<45}")
