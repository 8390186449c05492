"""BatchNorm statistics of the fine map, apart from those of the coarse map that the same projection serves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pst.functional.checks import is_eager


class FineStatistics(nn.Module):
    """Mean and variance with which a key/value projection normalises the fine map, in eval mode or when tracked.

    Coarse and fine keys share the whole projection, a Module with one BatchNorm anywhere in it; the fine ones get
    running statistics of their own. The projection is called as a whole, with these in the place of its BatchNorm's. In
    eval mode nothing is written for that, so that several threads may run one model. Once the BatchNorm was folded into
    a convolution, the projection's output gets one more scale and shift for each channel instead, which is the same
    where BatchNorm was the last step.

    Args:
        norm: The projection's BatchNorm, with running statistics.
        mean: (2C) of the BatchNorm's input; None means the BatchNorm's own.
        var: (2C), likewise.

    Attributes:
        tracked: Whether training updates the statistics, see `pst.track_fine_statistics`.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, norm: _BatchNorm, mean: Tensor | None = None, var: Tensor | None = None) -> None:
        super().__init__()
        own_mean, own_var = running(norm)
        with torch.inference_mode(False):  # else training could not use what was made while that is on
            self.register_buffer("mean", (own_mean if mean is None else mean).detach().clone())
            self.register_buffer("var", (own_var if var is None else var).detach().clone())
        self.tracked = False
        self._norm = (norm,)  # not as a submodule: it is the projection's, until that folds it and throws it away

    def forward(self) -> tuple[Tensor, Tensor]:
        """Mean and variance; called for them, so that hooks which bring offloaded buffers back run."""
        return self.mean, self.var

    def project(self, projection: nn.Module, x: Tensor) -> Tensor:
        """Project a fine map (B, C, H, W), and update the running statistics where `updates` says so.

        Returns:
            (B, 2C, H, W).
        """
        found = find_norm(projection)
        if found is None:
            scale, shift = (t[:, None, None] for t in self.correction())
            y = projection(x)
            return (y * scale + shift).to(y.dtype)
        _, norm = found
        if is_eager() and norm is not self._norm[0]:
            self._norm = (norm,)  # another one stands in its place by now
        if norm.training and not self.tracked:
            return projection(x)
        if is_eager() and not norm.training:
            with _StandIn(norm, *self()) as stand_in:
                y = projection(x)
            if stand_in.met:
                return y
        return self._swapped(projection, norm, x)

    def _swapped(self, projection: nn.Module, norm: _BatchNorm, x: Tensor) -> Tensor:
        """Call the projection while its BatchNorm holds these statistics: they learn, and compilers see plain tensors.

        Also serves a BatchNorm that computes otherwise than by PyTorch's function.
        """
        own = norm.running_mean, norm.running_var, norm.num_batches_tracked
        norm.running_mean, norm.running_var = self()
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked - 1  # the coarse map has counted this pass
        try:  # not torch.func.functional_call, which torch.jit.trace refuses
            return projection(x)
        finally:
            norm.running_mean, norm.running_var, norm.num_batches_tracked = own

    def updates(self, projection: nn.Module) -> bool:
        """Whether a pass updates the statistics: they are tracked, and the BatchNorm is in training mode."""
        found = find_norm(projection) if self.tracked else None
        return found is not None and found[1].training

    def correction(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (2C each, float32 at least) that turn BatchNorm's output for the coarse map into the fine's.

        γ·(z − μ_f)/σ_f + β = a·(γ·(z − μ_c)/σ_c + β) + b with a = σ_c/σ_f and b = (1 − a)·β + γ·(μ_c − μ_f)/σ_f,
        where f and c stand for fine and coarse, z is BatchNorm's input.
        """
        norm = self._norm[0]
        own = self()
        dtype = torch.promote_types(own[0].dtype, torch.float32)
        coarse_mean, coarse_var, mean, var = (t.to(own[0].device, dtype) for t in (*running(norm), *own))
        inverse = (var + norm.eps).rsqrt()
        scale, shift = (coarse_var + norm.eps).sqrt() * inverse, (coarse_mean - mean) * inverse
        if norm.affine:
            shift = (1 - scale) * norm.bias.to(scale) + shift * norm.weight.to(scale)
        return scale, shift


class _StandIn(TorchFunctionMode):
    """In this thread, gives fine statistics to ``F.batch_norm`` wherever it is called with those of ``norm``.

    Attributes:
        met: Whether it was.
    """

    def __init__(self, norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        self._norm, self._mean, self._var, self.met = norm, mean, var, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``."""
        kwargs = {} if kwargs is None else kwargs
        if func is F.batch_norm:
            args, kwargs = tuple(self._fine(t) for t in args), {name: self._fine(t) for name, t in kwargs.items()}
        return func(*args, **kwargs)

    def _fine(self, t: Any) -> Any:
        if t is not None and t is self._norm.running_mean:
            self.met = True
            return self._mean.to(t)
        return self._var.to(t) if t is not None and t is self._norm.running_var else t


def find_norm(projection: nn.Module) -> tuple[str, _BatchNorm] | None:
    """Name and Module of the BatchNorm with running statistics in ``projection``; None if there is none.

    Raises:
        ValueError: There are several.
    """
    found = [(n, m) for n, m in projection.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if len(found) > 1:
        raise ValueError(
            f"fine statistics are for a key/value projection of one BatchNorm, got {[name for name, _ in found]}: "
            "call pst.uncalibrate on the model"
        )
    return found[0] if found else None


def running(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance of a BatchNorm that `find_norm` found."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
