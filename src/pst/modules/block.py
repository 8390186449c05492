"""One transformer block of a PST layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pst.modules.attention import PyramidSparseAttention
from pst.modules.conv import ConvFactory, ConvNormAct
from pst.modules.settings import Options
from pst.modules.upsampling import DySample, Upsample

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PSTBlock(nn.Module):
    """z = x + Attn(x, u); out = z + MLP(z) (docs/method.md, "The layer").

    Args:
        dim: C, channels of both maps and of the output.
        num_heads: h; must divide ``dim``.
        mlp_ratio: Hidden width of the MLP as a multiple of C.
        conv: Factory of the convolutions.
        upsample: How the position term gets the size of ``x``: "bilinear" or "dysample".
        **options: Fields of `pst.modules.Settings`: ``topk``, ``fusion``, ``selection``, ….

    Raises:
        TypeError: An option has the wrong type, or there is none of its name.
        ValueError: Widths do not fit, or an option has a value that it cannot have.

    Examples:
        >>> block = pst.PSTBlock(64, num_heads=2).eval()
        >>> block(torch.randn(1, 64, 16, 24), torch.randn(1, 64, 8, 12)).shape
        torch.Size([1, 64, 16, 24])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 2.0,
        conv: ConvFactory = ConvNormAct,
        upsample: Upsample = "bilinear",
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        self.attn = PyramidSparseAttention(dim, num_heads, conv=conv, upsample=upsample, **options)
        hidden = int(dim * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"int(dim · mlp_ratio) must be ≥ 1, got int({dim} · {mlp_ratio}) = {hidden}")
        self.mlp = nn.Sequential(conv(dim, hidden), conv(hidden, dim, act=False))
        self.apply(_init_conv)

    def forward(self, x: Tensor, upper: Tensor, fine: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), upper (B, C, Hu, Wu), and fine (B, C, Hf, Wf) if that is not x -> (B, C, H, W)."""
        x = x + (self.attn(x, upper) if fine is None else self.attn(x, upper, fine))  # (B, C, H, W)
        return x + self.mlp(x)  # inside the MLP (B, mlp_ratio·C, H, W)


def _init_conv(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, DySample):  # after its convolution
        module.start()
