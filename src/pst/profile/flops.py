"""What a calculation has to do, whoever does it: floating-point operations and exponentials."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_EXPONENTIAL = {"_softmax", "_safe_softmax", "sigmoid", "silu"}  # one exponential for each number in the result


@dataclass(frozen=True)
class Work:
    """Operations of one call.

    Attributes:
        flops: Of convolutions and matrix products, both products of attention included; a multiply-add is two.
        exponentials: Of softmax, sigmoid and SiLU.
    """

    flops: int
    exponentials: int


def count_work(
    module: nn.Module, inputs: Sequence[Tensor], *, forward: Callable[..., Any] | None = None, train: bool = False
) -> Work:
    """Count the work of one call on the meta device: nothing is computed, and ``module`` is not changed.

    Attention is counted as the two products and the softmax that it is: PyTorch's counter does not know the fused
    attention of CPUs and would count nothing.

    Args:
        module: Any module that runs on the meta device; one that is there already is copied as it is.
        inputs: Its tensors, of any device.
        forward: ``forward(module, *inputs)``; None calls the module.
        train: Count the backward pass too, of the sum of a tensor output.
    """
    meta = copy.deepcopy(module)
    if not all(t.is_meta for t in (*meta.parameters(), *meta.buffers())):
        meta = meta.to("meta")
    tensors = [torch.empty_like(t, device="meta").requires_grad_(train) for t in inputs]
    flops, exponentials = FlopCounterMode(display=False), _Exponentials()
    with torch.set_grad_enabled(train), sdpa_kernel(SDPBackend.MATH), flops, exponentials:
        out = meta(*tensors) if forward is None else forward(meta, *tensors)
        if train:
            out.sum().backward()
    return Work(flops.get_total_flops(), exponentials.total)


class _Exponentials(TorchDispatchMode):
    """Counts exponentials while active."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **({} if kwargs is None else kwargs))
        if func.overloadpacket.__name__.rstrip("_") in _EXPONENTIAL:  # in place too
            self.total += out.numel()
        return out
