"""BatchNorm statistics of the fine map, apart from those of the coarse map that the same projection serves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class FineStatistics(nn.Module):
    """Mean and variance with which a key/value projection normalises the fine map, in eval mode or when tracked.

    The projection is a block with a convolution ``.conv`` and a BatchNorm ``.bn`` behind it. Coarse and fine keys share
    the convolution and the BatchNorm's weight and bias; here the fine ones get running statistics of their own. They
    are applied to the block's output, as one more affine map of each channel, so that they outlive the folding of the
    BatchNorm into the convolution.

    Args:
        norm: The block's BatchNorm, with running statistics.
        mean: (2C) of the convolution's output; None means the BatchNorm's own.
        var: (2C), likewise.

    Attributes:
        tracked: Whether training updates the statistics, see `pst.track_fine_statistics`.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, norm: _BatchNorm, mean: Tensor | None = None, var: Tensor | None = None) -> None:
        super().__init__()
        assert norm.running_mean is not None  # checked by the callers, see `plain_norm`
        assert norm.running_var is not None
        self.register_buffer("mean", norm.running_mean.detach().clone() if mean is None else mean)
        self.register_buffer("var", norm.running_var.detach().clone() if var is None else var)
        self.tracked = False
        self._norm = (norm,)  # not as a submodule: it is the block's, until that folds it and throws it away

    def forward(self, block: Any, x: Tensor) -> Tensor:
        """Project a fine map (B, C, H, W) as in training, with its batch's statistics, and update the running ones.

        Returns:
            (B, 2C, H, W).
        """
        norm: _BatchNorm = block.bn
        momentum = norm.momentum
        if momentum is None:  # the average of all batches
            assert norm.num_batches_tracked is not None  # it counts where there are running statistics
            momentum = 1 / max(1, int(norm.num_batches_tracked))
        projected = block.conv(x)
        return F.batch_norm(projected, self.mean, self.var, norm.weight, norm.bias, True, momentum, norm.eps)

    def correction(self, block: nn.Module) -> tuple[Tensor, Tensor]:
        """Scale and shift (2C each, float32 at least) that turn the block's output in eval mode into the fine map's.

        γ·(z − μ_f)/σ_f + β = a·(γ·(z − μ_c)/σ_c + β) + b with a = σ_c/σ_f and b = (1 − a)·β + γ·(μ_c − μ_f)/σ_f,
        where f and c stand for fine and coarse, z is the convolution's output.
        """
        own = getattr(block, "bn", None)
        norm = own if isinstance(own, _BatchNorm) else self._norm[0]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        coarse_mean, coarse_var, mean, var = (
            t.to(self.mean.device, dtype) for t in (norm.running_mean, norm.running_var, self.mean, self.var)
        )
        inverse = (var + norm.eps).rsqrt()
        scale, shift = (coarse_var + norm.eps).sqrt() * inverse, (coarse_mean - mean) * inverse
        if norm.affine:
            shift = (1 - scale) * norm.bias.to(scale) + shift * norm.weight.to(scale)
        return scale, shift


def plain_norm(block: nn.Module) -> _BatchNorm | None:
    """The BatchNorm of a block made of ``.conv`` and ``.bn`` alone, if it has running statistics, else None."""
    children = {name for name, child in block.named_children() if type(child) is not nn.Identity}
    norm = getattr(block, "bn", None)
    if children != {"conv", "bn"} or not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return None
    return norm
