"""Activations by name, and the classifier of the whole image."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Activation = str | Callable[[], nn.Module] | None


class ArgMax(nn.Module):
    """The class of each pixel, or of each image.

    Examples:
        >>> ArgMax()(torch.rand(2, 11, 8, 8)).shape
        torch.Size([2, 8, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes, …) -> int64 (B, …)."""
        return x.argmax(1)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(1),
    "softmax2d": lambda: nn.Softmax(1),
    "logsoftmax": lambda: nn.LogSoftmax(1),
    "tanh": nn.Tanh,
    "argmax": ArgMax,
    "argmax2d": ArgMax,
    "clamp": lambda: nn.Hardtanh(0.0, 1.0),
}


def build_activation(activation: Activation) -> nn.Module:
    """The Module of a name, see `PSTSegmenter`.

    Raises:
        ValueError: The name is unknown, or what was called gave no Module.
    """
    name = "identity" if activation is None else activation
    factory = _ACTIVATIONS.get(name) if isinstance(name, str) else name
    module = None if factory is None else factory()
    if not isinstance(module, nn.Module):
        raise ValueError(  # noqa: TRY004 - a name is wrong, not a type
            f"activation must be None, one of {sorted(_ACTIVATIONS)}, or a class or function that makes a Module, got "
            f"{activation!r}"
        )
    return module


def build_classifier(
    in_channels: int, classes: int, pooling: str = "avg", dropout: float = 0.2, activation: Activation = None
) -> nn.Sequential:
    """Coarsest map -> labels of the image; argument names as in ``aux_params``."""
    pools = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
    if pooling not in pools:
        raise ValueError(f"pooling must be one of {', '.join(sorted(pools))}, got {pooling!r}")
    layers = [pools[pooling](1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(in_channels, classes)]
    return nn.Sequential(*layers, build_activation(activation))
