"""PST: the plug-in layer that fuses two levels of a feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from pst.functional.checks import check_width
from pst.modules.attention import check_maps
from pst.modules.block import PSTBlock
from pst.modules.conv import ConvFactory, ConvNormAct
from pst.modules.settings import LayerOptions, Options, check_names
from pst.modules.upsampling import Upsample, build_upsampling, resize

if TYPE_CHECKING:
    from typing_extensions import Unpack

Wiring = Literal["attention", "concat", "add"]


class PST(nn.Module):
    """Pyramid Sparse Transformer layer (arXiv 2505.12772; P²HCT in v3; docs/method.md, "The layer").

    Reduces both maps to C = int(out_channels · expansion) channels, runs ``depth`` blocks in which the finer map
    attends to the coarser one, and projects the concatenation of all of their outputs.

    Args:
        in_channels: C1, channels of the finer map.
        upper_channels: Cu, channels of the coarser map.
        out_channels: C2, channels of the output.
        depth: Number of blocks, at least 1.
        mlp_ratio: Hidden width of each block's MLP as a multiple of C.
        expansion: C as a share of ``out_channels``.
        head_dim: d; must divide C. The authors fix it at 32.
        conv: Factory of the convolutions, see `pst.modules.ConvFactory`.
        wiring: What the finer map gets of the coarser one beside attention: "attention", nothing; "concat", the coarser
            map resized and concatenated to it before the reduction, as in the paper's detectors; "add", both reduced
            maps added, as in an FPN. With ``aligned``, "attention" means "add": the coarser map would not arrive at
            all.
        upsample: How that map, and the position term of attention, are resized: "bilinear", or "dysample" at points
            that are learnt (`pst.modules.upsampling.DySample`).
        **options: ``topk`` (0: train with this), ``fusion`` ("gate"), ``selection`` ("mean"), ``similarity``,
            ``aligned`` and ``max_tokens``: fields of `pst.modules.Settings`. `pst.set_topk` and the like change them
            on a finished model.

    Raises:
        TypeError: A number of channels is no integer, an option has the wrong type, or there is none of its name.
        ValueError: Widths do not fit or are none, ``depth`` < 1, or an option has a value that it cannot have.

    Examples:
        >>> layer = pst.PST(64, 128, 96, head_dim=16).eval()
        >>> finer, coarser = torch.randn(2, 64, 20, 30), torch.randn(2, 128, 10, 15)
        >>> layer(finer, coarser).shape
        torch.Size([2, 96, 20, 30])
        >>> pst.set_topk(layer, 8)  # the same weights, and fine attention
        >>> layer(finer, coarser).shape
        torch.Size([2, 96, 20, 30])
    """

    def __init__(
        self,
        in_channels: int,
        upper_channels: int,
        out_channels: int,
        *,
        depth: int = 1,
        mlp_ratio: float = 2.0,
        expansion: float = 0.5,
        head_dim: int = 32,
        conv: ConvFactory = ConvNormAct,
        wiring: Wiring = "attention",
        upsample: Upsample = "bilinear",
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        check_names(options, LayerOptions)
        for name, width in (
            ("in_channels", in_channels),
            ("upper_channels", upper_channels),
            ("out_channels", out_channels),
        ):
            check_width(name, width)
        dim = int(out_channels * expansion)
        if head_dim < 1 or dim < head_dim or dim % head_dim != 0:
            raise ValueError(
                f"int(out_channels · expansion) must be a multiple of head_dim={head_dim}, got "
                f"int({out_channels} · {expansion}) = {dim}: change out_channels, expansion or head_dim"
            )
        if depth < 1:
            raise ValueError(f"depth must be ≥ 1, got {depth}")
        self.in_channels, self.upper_channels, self.out_channels = in_channels, upper_channels, out_channels
        if wiring not in get_args(Wiring):
            raise ValueError(f"wiring must be one of {', '.join(get_args(Wiring))}, got {wiring!r}")
        self.wiring: Wiring = "add" if wiring == "attention" and options.get("aligned", False) else wiring
        self.reduce = conv(in_channels + (upper_channels if self.wiring == "concat" else 0), dim)
        self.reduce_upper = conv(upper_channels, dim)
        self.blocks = nn.ModuleList(
            PSTBlock(dim, dim // head_dim, mlp_ratio=mlp_ratio, conv=conv, upsample=upsample, **options)
            for _ in range(depth)
        )
        self.project = conv((1 + depth) * dim, out_channels)
        passed = {"attention": 0, "concat": upper_channels, "add": dim}[self.wiring]
        self.upsampling = build_upsampling(upsample, passed) if passed else None

    def forward(self, x: Tensor, upper: Tensor, fine: Tensor | None = None) -> Tensor:
        """Fuse.

        Args:
            x: Finer map (B, C1, H, W), of the queries.
            upper: Coarser map (B, Cu, Hu, Wu), Hu ≤ H, Wu ≤ W; any ratio, odd sizes included.
            fine: Map whose positions are the children of those of ``upper``, (B, C1, Hf, Wf), for an ``upper`` of
                another frame or photo than ``x``, whose size is then its own. None is ``x``, in each block as it is
                by then. The coarser map belongs to ``fine`` and is added to that alone; "concat" takes no ``fine``.

        Returns:
            (B, C2, H, W), dtype and memory format of ``x``.

        Raises:
            TypeError: The maps are of integers, or their dtypes differ outside autocast.
            ValueError: Shapes or devices do not fit, or ``fine`` is given and ``wiring`` is "concat".
        """
        check_maps(x, upper, fine, self.in_channels, self.upper_channels)
        if fine is not None and self.wiring == "concat":
            raise ValueError('fine is another frame than x, to which wiring="concat" has no coarser map to concatenate')
        if self.wiring == "concat":
            x = torch.cat([x, self._resized(upper, x)], 1)  # (B, C1 + Cu, H, W)
        outputs, upper = [self.reduce(x)], self.reduce_upper(upper)  # (B, C, H, W), (B, C, Hu, Wu)
        other = None if fine is None else self.reduce(fine)  # (B, C, Hf, Wf)
        if self.wiring == "add" and other is None:
            outputs[0] = outputs[0] + self._resized(upper, x)
        elif self.wiring == "add" and other is not None:
            other = other + self._resized(upper, other)
            if self.training:  # ties the upsampling to the result with k = 0 too, as DistributedDataParallel wants it
                outputs[0] = outputs[0] + other.flatten()[:0].sum()
        maps = (upper,) if other is None else (upper, other)
        for block in self.blocks:
            outputs.append(block(outputs[-1], *maps))  # (B, C, H, W)
        return self.project(torch.cat(outputs, 1))  # (B, (1 + depth)·C, H, W) -> (B, C2, H, W)

    def _resized(self, upper: Tensor, like: Tensor) -> Tensor:
        return resize(self.upsampling, upper, (like.shape[2], like.shape[3]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "wiring" not in state:  # an older pickle; version 0.1 has no aligned layers
            state = {**state, "wiring": "add" if state.get("aligned", False) else "attention"}
        super().__setstate__(state)
        self._modules.setdefault("upsampling", None)
