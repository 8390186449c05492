"""Images of other channels than the three that published networks and statistics are for, or of another size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]."""


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Mean or standard deviation of each channel, from those of red, green and blue.

    A single channel is grey and gets their average. Several repeat them in turn, as timm repeats the weights of a first
    convolution. Values that are as many as the channels stay as they are.

    Args:
        values: One for each channel that a network was made for.
        channels: Of the images, at least 1.

    Examples:
        >>> per_channel((1.0, 2.0, 6.0), 1), per_channel((1.0, 2.0, 6.0), 4)
        ((3.0,), (1.0, 2.0, 6.0, 1.0))
    """
    if channels == 1 and len(values) > 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


def check_statistics(mean: Any, std: Any, channels: int, names: tuple[str, str] = ("mean", "std")) -> None:
    """Raise ValueError unless these are a mean and a standard deviation of images from 0 to 1.

    Args:
        mean: One number for each of the channels, or of red, green and blue; None passes.
        std: Likewise.
        channels: Of the images.
        names: What the two are called, for messages.
    """
    each = "three numbers" if channels == 3 else f"three numbers, or one for each of {channels} channels"
    for name, values, least, most in ((names[0], mean, -2, 2), (names[1], std, 0.0001, 10)):
        if values is None:
            continue
        fits = isinstance(values, (list, tuple)) and len(values) in (3, channels)
        if not fits or not all(type(value) in (int, float) for value in values):
            raise ValueError(f"{name} must be {each}, got {str(values)[:80]}")
        if not all(least <= value <= most for value in values):
            raise ValueError(
                f"{name} is of images from 0 to 1, its numbers must be from {least} to {most}, got {str(values)[:80]}: "
                "divide those of bytes by 255"
            )


def asked_channels(in_channels: int | None, options: Mapping[str, Any]) -> int:
    """Channels of the images, by our name ``in_channels`` or by timm's ``in_chans`` among the options; 3 by default.

    Raises:
        ValueError: Both are given and differ, or it is not an integer ≥ 1.
    """
    given = {
        name: n for name, n in (("in_channels", in_channels), ("in_chans", options.get("in_chans"))) if n is not None
    }
    if len({*given.values()}) > 1:
        raise ValueError(f"in_channels={in_channels} and in_chans={options['in_chans']} contradict: give one of them")
    channels = next(iter(given.values()), 3)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError(f"{next(iter(given))} must be an integer ≥ 1, got {channels!r}")
    return channels


def check_channels(name: str, images: Tensor, channels: int) -> None:
    """Raise TypeError or ValueError unless images are (B, C, H, W) float of the network's channels."""
    if not images.is_floating_point():
        raise TypeError(f"{name} takes float images, from 0 to 1 and then normalised, got {images.dtype}: convert them")
    if images.shape[1] != channels:
        raise ValueError(
            f"{name} takes images of {channels} channels, got shape {tuple(images.shape)}: convert them, or build the "
            "network for theirs"
        )


def check_size(name: str, images: Tensor, size: tuple[int, int] | None) -> None:
    """Raise ValueError unless images (B, C, H, W) have the only ``size`` that a network takes; None means any."""
    if size is not None and tuple(images.shape[2:]) != size:
        raise ValueError(
            f"{name} takes images of size {size} only, got {tuple(images.shape[2:])}: resize them, set another size "
            "with its options (often img_size=… or image_size=…), or take a network that takes any"
        )


@torch.no_grad()
def replace_first_convolution(network: nn.Module, channels: int, *, pretrained: bool) -> None:
    """Let a network of three-channel images take ``channels``, as timm does: in place.

    Published weights are summed for one channel, and for several repeated in turn and scaled by 3/channels, so that the
    sums that the next layer sees keep their size. Random ones are drawn anew, as widely as they were.

    Args:
        network: Its first convolution sees the images.
        channels: Of the images.
        pretrained: Whether it holds published weights.
    """
    if channels == 3:
        return
    name, old = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    options: dict[str, Any] = {
        key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    new = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **options).to(old.weight)
    if not pretrained:
        new.weight.normal_(0, float(old.weight.std()))
    elif channels == 1:
        new.weight.copy_(old.weight.sum(1, keepdim=True))
    else:
        new.weight.copy_(old.weight[:, [i % 3 for i in range(channels)]] * (3 / channels))
    if new.bias is not None and old.bias is not None:
        new.bias.copy_(old.bias)
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)
