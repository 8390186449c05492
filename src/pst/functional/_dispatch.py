"""Which implementation `impl="auto"` runs, and why."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from pst.functional.checks import is_eager

HEAD_WIDTHS = (16, 32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_INSTALLED = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it when it is imported; runs on the CPU

LARGE = 2**28  # logits, B·h·N·M: below, the time goes into launches, of which SDPA needs fewer

# (mode, whether gradients are recorded) -> dtype -> least number of logits from which the Triton kernel was faster than
# SDPA, launches included, on an H100. Section "dispatch" of lab/results/gpu.json allows less in float32, to be taken
# over once the section "correctness" was run with the kernel as it is.
FASTER: dict[tuple[str, bool], dict[torch.dtype, int]] = {
    ("coarse", False): {torch.float32: LARGE},
    ("coarse", True): {torch.float32: LARGE},
    ("gate", False): {torch.float16: LARGE, torch.bfloat16: LARGE, torch.float32: LARGE},
    ("gate", True): {torch.float32: LARGE},
    ("refine", False): {},
    ("refine", True): {},
}


class Choice(NamedTuple):
    """An implementation, "fused" or "triton", and the reason for it in words."""

    impl: str
    reason: str


def implementation_for(query: Tensor, tokens: int, *, topk: int = 0, fusion: str = "gate") -> Choice:
    """What ``impl="auto"`` runs for such a query, and why.

    Triton's kernel runs where it can and where it was measured to be faster than `scaled_dot_product_attention`, but
    never inside `torch.compile` and exports, which are given operators of PyTorch alone; ``impl="triton"`` is obeyed
    in the former.

    Args:
        query: (..., d), the query map or one like it: device, dtype, sizes and whether it requires gradients count.
        tokens: M, coarse tokens of each image and head.
        topk: k.
        fusion: "gate" or "refine".
    """
    if not is_eager():
        return Choice("fused", "a compiled or exported program gets PyTorch's own operators")
    refusal = refusal_of_triton(query)
    if refusal is not None:
        return Choice("fused", refusal)
    mode = "coarse" if topk == 0 else fusion
    training = torch.is_grad_enabled() and query.requires_grad
    case = f"for {mode} attention in {query.dtype} {'with' if training else 'without'} gradients"
    least, logits = FASTER[mode, training].get(query.dtype), query.numel() // query.shape[-1] * tokens
    if least is None:
        return Choice("fused", f"{case}, Triton was not measured to be faster than SDPA")
    if logits < least:
        return Choice(
            "fused", f"{case}, Triton was measured to be faster from {least:,} logits on; here are {logits:,}"
        )
    return Choice("triton", f"{case} and {logits:,} logits, Triton was measured to be faster than SDPA")


def refusal_of_triton(query: Tensor, value: Tensor | None = None) -> str | None:
    """Why the Triton kernel cannot run for such a query, and values if they differ in width; None if it can."""
    if query.device.type != "cuda" and not _INTERPRETED:
        return f"Triton needs a CUDA GPU, and the query is on {query.device}"
    if not _INSTALLED:
        return "Triton is not installed"
    if query.dtype not in DTYPES:
        return f"Triton's kernel is for float16, bfloat16 and float32, and the query is {query.dtype}"
    if query.shape[-1] not in HEAD_WIDTHS:
        return f"Triton's kernel is for head widths {HEAD_WIDTHS}, and the query has {query.shape[-1]}"
    if value is not None and value.shape[-1] != query.shape[-1]:
        return f"Triton's kernel is for one width, and the query has {query.shape[-1]}, the values {value.shape[-1]}"
    if query.numel() == 0:
        return "the query is empty"
    if torch.version.hip is not None:
        return "Triton's kernel is not tested on ROCm"
    if query.device.type == "cuda" and torch.cuda.get_device_capability(query.device) < (8, 0):
        return "Triton's kernel needs compute capability 8.0"
    return None
