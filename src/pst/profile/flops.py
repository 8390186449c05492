"""What a calculation has to do, whoever does it: floating-point operations and exponentials. Counted here alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
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


class ModelSize(NamedTuple):
    """Size of one model.

    Attributes:
        name: Of the model.
        parameters: Of the whole model.
        gflops: 10⁹ operations for one image, see `count_flops`.
        image_size: (height, width) in pixels that ``gflops`` is for.
    """

    name: str
    parameters: int
    gflops: float
    image_size: tuple[int, int]


def model_size(name: str, model: nn.Module, image: Tensor) -> ModelSize:
    """Parameters of ``model``, and its operations for ``image`` (1, C, H, W)."""
    parameters = sum(p.numel() for p in model.parameters())
    return ModelSize(name, parameters, count_flops(model, image) / 1e9, (image.shape[2], image.shape[3]))


def count_flops(model: nn.Module, *inputs: Any) -> int:
    """Floating-point operations of one forward pass in eval mode.

    Convolutions and matrix products are counted, a multiply-add as two operations. So are both products of attention,
    which many published figures leave out; PyTorch's counter does not know the fused attention of CPUs, so attention
    runs as PyTorch's "math" backend meanwhile.

    A copy of the model runs on the CPU. One that is on the meta device stays there: nothing is computed, and a large
    image costs no more time than a small one.

    Args:
        model: Any Module, with k as it is set; it is not changed.
        inputs: What it takes: tensors, or lists, tuples and dicts of them, of any device.

    Examples:
        >>> count_flops(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 10, 10))  # 2 · 3 · 8 · 100
        4800
    """
    copied = copy.deepcopy(model).eval()
    meta = any(p.is_meta for p in model.parameters())
    if not meta:
        copied.cpu()  # kernels of ours on a GPU would not be counted
    tensors = tree_map_only(Tensor, lambda t: t.to("meta" if meta else "cpu"), inputs)
    with torch.no_grad():
        return _count(lambda: copied(*tensors)).flops


def count_work(
    module: nn.Module, inputs: Sequence[Tensor], *, forward: Callable[..., Any] | None = None, train: bool = False
) -> Work:
    """Count all work of one call, as `count_flops` does, on the meta device: nothing is computed.

    Args:
        module: Any module that runs on the meta device, in the mode that it is in; it is not changed.
        inputs: Its tensors, of any device.
        forward: ``forward(module, *inputs)``; None calls the module.
        train: Count the backward pass too, of the sum of a tensor output.
    """
    meta = copy.deepcopy(module)
    if not all(t.is_meta for t in (*meta.parameters(), *meta.buffers())):
        meta = meta.to("meta")
    tensors = [torch.empty_like(t, device="meta").requires_grad_(train) for t in inputs]

    def call() -> None:
        out = meta(*tensors) if forward is None else forward(meta, *tensors)
        if train:
            out.sum().backward()

    with torch.set_grad_enabled(train):
        return _count(call)


def _count(call: Callable[[], object]) -> Work:
    flops, exponentials = FlopCounterMode(display=False), _Exponentials()
    with sdpa_kernel(SDPBackend.MATH), flops, exponentials:  # MATH: attention as the two products that it is
        call()
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
