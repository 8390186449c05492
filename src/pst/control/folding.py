"""BatchNorm folded into the convolutions of a finished model."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from pst.control.layers import find_attention
from pst.modules.conv import ConvNormAct

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model) -> Model:
    """Fold the BatchNorm of every `pst.ConvNormAct` in ``model`` into its convolution, for inference.

    In place: the model computes the same with fewer operators, and is not to be trained further. The folded
    convolutions have a bias, and their BatchNorms are gone from the state dict: save and load before.

    What cannot be folded without changing the result stays as it is: blocks with a forward of their own, or whose
    convolution or norm is another Module than Conv2d and BatchNorm2d, is parametrised, pruned, hooked or patched; and
    the key/value projection of a layer with fine statistics (`pst.calibrate`), which normalises in two ways. Modules
    of other libraries are left to them: an Ultralytics model has a ``fuse()`` of its own, which reaches into its PST
    layers too.

    Args:
        model: Any Module with `pst.ConvNormAct` inside, in eval mode.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: It holds no `pst.ConvNormAct`, or a part of it is in training mode. Then nothing is changed.

    Examples:
        >>> layer = pst.fuse(pst.PST(64, 128, 128).eval())
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch Module, got {type(model).__name__}")
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, ConvNormAct)}
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} holds no pst.ConvNormAct to fuse: a model built of another library's blocks is "
            "fused by that library, as Ultralytics' model.fuse() does"
        )
    training = [name for name, block in blocks.items() if block.training or block.bn.training]
    if training:
        raise ValueError(f"BatchNorm is folded for inference, and {training[0] or 'the model'} is in training mode: "
                         "call model.eval() first")  # fmt: skip
    calibrated = [layer.kv for layer in find_attention(model).values() if layer.fine_statistics is not None]
    kept = {id(m) for kv in calibrated for m in kv.modules()}
    for block in blocks.values():
        if id(block) not in kept:
            block.fold_norm()
    return model
