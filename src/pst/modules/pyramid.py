"""PSTPyramid: every level of a feature pyramid fused with the next coarser one, from the top down."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst.modules.attention import check_pair
from pst.modules.conv import ConvFactory, ConvNormAct
from pst.modules.fusion import PST
from pst.modules.settings import PyramidOptions, check_names

Maps = TypeVar("Maps", list[Tensor], tuple[Tensor, ...], dict[str, Tensor], "OrderedDict[str, Tensor]")
Share = Literal["none", "attention"]


class PSTPyramid(nn.Module):
    """A feature pyramid network of PST layers, in place of `torchvision.ops.FeaturePyramidNetwork`.

    Level i of L, level 0 the finest, has C_i in and gives (CN and PST as in `pst.PST`; arXiv 2505.12772)

        P_{L-1} = CN(C_{L-1})        P_i = PST(C_i, P_{i+1}), i = L-2 … 0

    PST's own reductions are the 1×1 laterals of a usual FPN, and no 3×3 smoothing follows, as none does in the paper.
    The paper's detectors also concatenate P_{i+1}, upsampled, to C_i, as ``wiring="concat"`` does; with "add" it is
    added to the reduced C_i, as in an FPN; with "attention" it arrives by attention alone.
    With ``bottom_up`` the coarser levels then take back detail, N_0 = P_0 and
    N_{i+1} = CN3×3([N_i resized bilinearly ; P_{i+1}]), and N is the result.

    Sizes are read off the maps: neighbours may differ by any ratio ≥ 1, along each axis.

    Args:
        in_channels: Channels of each map, finest first.
        out_channels: Channels of every map of the result.
        extra_blocks: A Module called as ``extra_blocks(results, maps, names)`` that returns longer lists of results and
            names, such as torchvision's LastLevelMaxPool and LastLevelP6P7.
        norm_layer: Factory of what follows each convolution, called with the number of channels; None is BatchNorm2d.
        in_channels_list: torchvision's name for ``in_channels``; give one of the two.
        topk: k of all PST layers, or one k for each, finest level first (L-1 of them: the coarsest has none).
        share: "attention" gives all levels one set of attention weights: convolutions and gate. Their norms stay each
            level's own, since statistics differ from level to level; so do k, reductions and MLPs.
        bottom_up: Adds the path from fine to coarse.
        reductions: Pixels of the image per position of each map, finest first; for those who read `reductions`.
        conv: Factory of the convolutions, see `pst.modules.ConvFactory`; excludes ``norm_layer``.
        **options: What else `pst.PST` takes: ``wiring``, ``upsample``, ``depth``, ``mlp_ratio``, ``expansion``,
            ``head_dim`` and the options of `pst.modules.Settings`.

    Attributes:
        out_channels: As given.
        reductions: As given, as a tuple; None if it was not. The pyramid itself never needs them.

    Raises:
        TypeError: ``extra_blocks`` is not a Module, ``in_channels`` is one number, or ``topk`` holds something else
            than integers.
        ValueError: Numbers of levels or widths do not fit, or an option is unknown.

    Examples:
        >>> pyramid = pst.PSTPyramid([32, 64, 96], 64, topk=[8, 4], fusion="refine").eval()
        >>> maps = [torch.randn(1, 32, 32, 48), torch.randn(1, 64, 16, 24), torch.randn(1, 96, 8, 12)]
        >>> [tuple(y.shape) for y in pyramid(maps)]
        [(1, 64, 32, 48), (1, 64, 16, 24), (1, 64, 8, 12)]
    """

    def __init__(
        self,
        in_channels: Sequence[int] | None = None,
        out_channels: int = 256,
        extra_blocks: nn.Module | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        *,
        in_channels_list: Sequence[int] | None = None,
        topk: int | Sequence[int] = 0,
        share: Share = "none",
        bottom_up: bool = False,
        reductions: Sequence[int] | None = None,
        conv: ConvFactory = ConvNormAct,
        **options: Any,
    ) -> None:
        super().__init__()
        check_names(options, PyramidOptions)
        self.in_channels = _channels(in_channels, in_channels_list)
        self.out_channels = out_channels
        self.reductions = _reductions(reductions, len(self.in_channels))
        if extra_blocks is not None and not isinstance(extra_blocks, nn.Module):
            raise TypeError(f"extra_blocks must be a Module, such as LastLevelMaxPool(), got {extra_blocks!r}")
        if share not in ("none", "attention"):
            raise ValueError(f"share must be one of none, attention, got {share!r}")
        if norm_layer is not None:
            if conv is not ConvNormAct:
                raise ValueError("give norm_layer or conv, not both: conv decides which norm its blocks have")
            conv = partial(ConvNormAct, norm_layer=norm_layer)
        self.top = conv(self.in_channels[-1], out_channels)
        ks = _per_level(topk, len(self.in_channels) - 1)
        self.layers = nn.ModuleList(
            PST(c, out_channels, out_channels, topk=k, conv=conv, **options)
            for c, k in zip(self.in_channels[:-1], ks, strict=True)
        )
        if share == "attention":
            _share_attention([layer for layer in self.layers if isinstance(layer, PST)])
        self.bottom_up = nn.ModuleList(conv(2 * out_channels, out_channels, 3) for _ in ks) if bottom_up else None
        self.extra_blocks = extra_blocks

    def forward(self, maps: Maps) -> Maps:
        """Fuse.

        Args:
            maps: A list, tuple or (ordered) dict of the L maps, finest first; map i is (B, in_channels[i], H_i, W_i).

        Returns:
            The same kind of container, finest first; map i is (B, out_channels, H_i, W_i), in the dtype and memory
            format of map i. A dict has the names of ``maps``. Levels of ``extra_blocks`` come last.

        Raises:
            TypeError: ``maps`` is another container, or dtypes differ outside autocast.
            ValueError: Number of maps, shapes or devices do not fit.
        """
        if not isinstance(maps, (list, tuple, Mapping)):
            raise TypeError(f"maps must be a list, a tuple or a dict of maps, got {type(maps).__name__}")
        names = list(maps) if isinstance(maps, Mapping) else [str(i) for i in range(len(maps))]
        levels = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
        self._check(levels)
        results: Any = self._fuse(levels)
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, levels, names)
        kind: Any
        if isinstance(maps, Mapping):
            kind = OrderedDict if isinstance(maps, OrderedDict) else dict
            return kind(zip(names, results, strict=True))
        kind = tuple if isinstance(maps, tuple) else list
        return kind(results)

    def _fuse(self, levels: list[Tensor]) -> list[Tensor]:
        results = [self.top(levels[-1])]  # the coarsest, (B, out_channels, H_L, W_L)
        for layer, x in zip(reversed(self.layers), reversed(levels[:-1]), strict=True):
            results.insert(0, layer(x, results[0]))  # (B, out_channels, H_i, W_i), in front of the coarser ones
        if self.bottom_up is not None:
            for i, conv in enumerate(self.bottom_up):
                detail = F.interpolate(results[i], results[i + 1].shape[2:], mode="bilinear", align_corners=False)
                results[i + 1] = conv(torch.cat([detail, results[i + 1]], 1))  # from 2·out_channels
        return results

    def _check(self, levels: list[Tensor]) -> None:
        if len(levels) != len(self.in_channels):
            raise ValueError(f"expected {len(self.in_channels)} maps, finest first, got {len(levels)}")
        for i, (t, c) in enumerate(zip(levels, self.in_channels, strict=True)):
            if t.ndim != 4 or t.shape[1] != c:
                raise ValueError(f"map {i} must be (batch, {c}, height, width), got shape {tuple(t.shape)}")
        for i in range(1, len(levels)):
            check_pair(levels[i - 1], levels[i], self.in_channels[i - 1], self.in_channels[i])


def _channels(in_channels: Sequence[int] | None, in_channels_list: Sequence[int] | None) -> tuple[int, ...]:
    given = [c for c in (in_channels, in_channels_list) if c is not None]
    if len(given) != 1:
        raise ValueError("give the channels of each map once, as in_channels (torchvision's name: in_channels_list)")
    if isinstance(given[0], int):
        raise TypeError(
            f"in_channels must hold the channels of each map, finest first, got {given[0]}: write [{given[0]}]"
        )
    channels = tuple(given[0])
    if not channels or min(channels) < 1:
        raise ValueError(f"in_channels must hold the channels of each map, at least one map, got {list(channels)}")
    return channels


def _reductions(reductions: Sequence[int] | None, levels: int) -> tuple[int, ...] | None:
    if reductions is None:
        return None
    if len(reductions) != levels or list(reductions) != sorted(reductions):
        raise ValueError(f"reductions must be {levels} numbers, the finest level's first, got {list(reductions)}")
    return tuple(reductions)


def _per_level(topk: int | Sequence[int], levels: int) -> list[int]:
    if not isinstance(topk, Sequence):
        return [topk] * levels
    if len(topk) != levels:
        raise ValueError(f"topk must be an integer or {levels} of them, finest level first, got {list(topk)}")
    return list(topk)


def _share_attention(layers: list[PST]) -> None:
    """Put the convolutions and linear layers of the first layer's attention into the others."""
    for layer in layers[1:]:
        for first, block in zip(layers[0].blocks, layer.blocks, strict=True):
            _share_weights(first.get_submodule("attn"), block.get_submodule("attn"))


def _share_weights(source: nn.Module, target: nn.Module) -> None:
    for name, child in source.named_children():
        if isinstance(child, (nn.Conv2d, nn.Linear)):
            setattr(target, name, child)
        else:
            _share_weights(child, target.get_submodule(name))
