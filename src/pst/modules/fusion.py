"""PST: the plug-in layer that fuses two levels of a feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst.modules.attention import check_maps
from pst.modules.block import PSTBlock
from pst.modules.conv import ConvFactory, ConvNormAct
from pst.modules.settings import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
        **options: ``topk`` (0: train with this), ``fusion`` ("gate"), ``selection`` ("mean"), ``similarity`` and
            ``aligned``, see `pst.modules.Settings`; change them on a finished model with `pst.set_topk` and the like.

    Raises:
        TypeError: An option has the wrong type, or there is none of its name.
        ValueError: Widths do not fit, ``depth`` < 1, or an option has a value that it cannot have.
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
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        dim = int(out_channels * expansion)
        if head_dim < 1 or dim < head_dim or dim % head_dim != 0:
            raise ValueError(
                f"int(out_channels · expansion) must be a multiple of head_dim={head_dim}, got "
                f"int({out_channels} · {expansion}) = {dim}: change out_channels, expansion or head_dim"
            )
        if depth < 1:
            raise ValueError(f"depth must be ≥ 1, got {depth}")
        self.in_channels, self.upper_channels, self.out_channels = in_channels, upper_channels, out_channels
        self.reduce = conv(in_channels, dim)
        self.reduce_upper = conv(upper_channels, dim)
        self.blocks = nn.ModuleList(
            PSTBlock(dim, dim // head_dim, mlp_ratio=mlp_ratio, conv=conv, **options) for _ in range(depth)
        )
        self.project = conv((1 + depth) * dim, out_channels)
        self.aligned = options.get("aligned", False)

    def forward(self, x: Tensor, upper: Tensor, fine: Tensor | None = None) -> Tensor:
        """Fuse.

        Args:
            x: Finer map (B, C1, H, W), of the queries.
            upper: Coarser map (B, Cu, Hu, Wu), Hu ≤ H, Wu ≤ W; any ratio, odd sizes included.
            fine: Map whose positions are the children of those of ``upper``, (B, C1, Hf, Wf), for an ``upper`` of
                another frame or photo than ``x``, whose size is then its own. None is ``x``, in each block as it is
                by then.

        Returns:
            (B, C2, H, W), dtype and memory format of ``x``.

        Raises:
            TypeError: The maps' dtypes differ, outside autocast.
            ValueError: Shapes or devices do not fit.
        """
        check_maps(x, upper, fine, self.in_channels, self.upper_channels)
        outputs, upper = [self.reduce(x)], self.reduce_upper(upper)
        other = None if fine is None else self.reduce(fine)
        if self.aligned and other is None:
            outputs[0] = _added(outputs[0], upper)
        elif self.aligned and other is not None:
            other = _added(other, upper)
        maps = (upper,) if other is None else (upper, other)
        for block in self.blocks:
            outputs.append(block(outputs[-1], *maps))
        return self.project(torch.cat(outputs, 1))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"aligned": False} | state)  # a pickle of version 0.1 has none


def _added(x: Tensor, upper: Tensor) -> Tensor:
    """How the coarser level arrives where blocks attend to means of x's own positions: by addition, as in an FPN."""
    return x + F.interpolate(upper, x.shape[2:], mode="bilinear", align_corners=False)
