"""Networks of timm, torchvision and transformers as bodies: modules that give all of their feature maps.

A body maps images (B, in_channels, H, W) to an OrderedDict with one map (B, C_i, ~H/r_i, ~W/r_i) for each of its
reductions r_i, finest first, under the name ``str(r_i)``. It stops at the coarsest map that was asked for, so that no
parameter is without a gradient. Each library is imported when one of its bodies is built.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union, get_args

from torch import Tensor, nn

from pst.backbones.channels import asked_channels, check_statistics, per_channel
from pst.backbones.plain import REDUCTIONS
from pst.backbones.stages import freeze_stages
from pst.backbones.versions import TRANSFORMERS
from pst.backbones.weights import Weights
from pst.io.files import first_line
from pst.io.versions import check_installed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Library = Literal["timm", "torchvision"]
Name: TypeAlias = Union[str, Mapping[str, Any], "PreTrainedConfig"]
"""Of a network, or what builds it: see `build_body`."""

__all__ = ["Body", "Library", "Name", "Weights", "build_body", "freeze_stages", "levels_from", "portable_name"]


class Body(Protocol):
    """What every body has.

    Attributes:
        in_channels: Of the images.
        reductions: Pixels of the image per position of each map, finest first.
        channels: Of each map.
        mean: Of each channel of images from 0 to 1, which they are normalised by: that of the network's training.
        std: Standard deviation, likewise.
        multiple: What the sides of images are filled up to, at the right and the bottom.
    """

    in_channels: int
    reductions: tuple[int, ...]
    channels: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multiple: int

    def __call__(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, in_channels, H, W) -> maps by ``str(reduction)``."""
        ...


def build_body(
    name: Name,
    library: Library = "timm",
    *,
    pretrained: bool | str = False,
    coarsest: int = 32,
    finest: int = 4,
    frozen_batchnorm: bool = False,
    in_channels: int | None = None,
    weights: Weights | None = None,
    weights_name: str = "weights",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """Build the body of a network.

    A network whose maps are all of one stride, such as a plain vision transformer, gets levels of reductions 4, 8, 16
    and 32 made of its last map, see `pst.backbones.plain.PlainBody`. These start fresh, also beside published weights.

    Args:
        name: The library's name of the network; "hf:NAME" is the network NAME on the Hugging Face Hub, or a folder.
            A configuration of transformers, the object or its ``to_dict()``, builds a network without the Hub.
        library: "timm" (any network with ``features_only``) or "torchvision" (ResNets, RegNets, and every network with
            a ``features`` part of several resolutions); "hf:NAME" and configurations are of transformers, which has
            those of AutoBackbone, ViT and DeiT.
        pretrained: Load the library's default weights, or those of this tag (timm: "a1_in1k"), name (torchvision:
            "IMAGENET1K_V2") or revision (transformers).
        coarsest: Reduction of the last map; later stages are left out (transformers': do not train).
        finest: Reduction of the first level that is made of a plain transformer's map; hierarchies give all they have.
        frozen_batchnorm: Replace every BatchNorm2d by one with fixed statistics, weight and bias.
        in_channels: Of the images; None means 3. timm's name of the option, ``in_chans``, is taken as well. Published
            weights of the first convolution are adapted as timm does: summed for one channel, else repeated in turn and
            scaled by 3/in_channels.
        weights: In place of ``pretrained``: a local file, ``.safetensors`` or of ``torch.save``, or a state dict, by
            the library's own names. Every tensor of the library's classifier must be there and no other; its class
            layers alone may be missing or of other classes. Bodies of timm and transformers also take their own state
            dict.
        weights_name: What ``weights`` are called where the user gives them, for messages.
        mean: Of each channel, or of red, green and blue, of images from 0 to 1: what the body says in place of that of
            its library. Nothing is normalised by a body.
        std: Standard deviation, likewise.
        options: Passed to the library's constructor; transformers': fields of the configuration that replace its own.
            A plain transformer also has ``width`` (256), the channels of its levels, and ``frozen`` (False), which
            keeps it as it is, without gradients and in eval mode, while the levels train.

    Returns:
        A Module that is a `Body`.

    Raises:
        FileNotFoundError: ``weights`` names no file.
        ImportError: transformers is missing or of another version.
        OSError: The configuration or the weights of a name on the Hub cannot be fetched.
        TypeError: ``weights`` is neither a file nor a state dict.
        ValueError: Library, network or option is unknown, it has no such map, ``in_channels`` is not an integer ≥ 1,
            ``mean`` or ``std`` are not such numbers, or ``weights`` cannot be read, are another network's, or given
            beside ``pretrained``.
    """
    if library not in get_args(Library):
        raise ValueError(f"library must be one of {', '.join(get_args(Library))}, got {library!r}")
    if weights is not None and pretrained:
        raise ValueError(
            f"weights come from one place: {weights_name} was given beside the published ones, {pretrained!r}"
        )
    levels_from(finest, max(coarsest, 4))
    of_transformers = not isinstance(name, str) or name.startswith("hf:")
    if of_transformers and library != "timm":
        raise ValueError(f"{str(name)[:80]!r} is a network of transformers, but library={library!r}: leave it out")
    given = {"pretrained": pretrained, "weights": weights, "coarsest": coarsest, "frozen_batchnorm": frozen_batchnorm}
    given["in_channels"] = asked_channels(in_channels, options)
    options.pop("in_chans", None)
    check_statistics(mean, std, given["in_channels"])
    with _fetching(name, weights_name, fetched=bool(pretrained) and not of_transformers):
        if of_transformers:
            TRANSFORMERS.check("a backbone of transformers")
            from pst.backbones.transformers import transformers_body

            body: Any = transformers_body(name, finest=finest, **given, **options)
        elif library == "timm":
            check_installed("a backbone of timm", "timm", "timm")
            from pst.backbones.timm_plain import timm_body

            body = timm_body(str(name), finest=finest, **given, **options)
        else:
            from pst.backbones.torchvision import torchvision_body

            body = torchvision_body(str(name), **given, **options)
    body.mean = body.mean if mean is None else per_channel(mean, body.in_channels)
    body.std = body.std if std is None else per_channel(std, body.in_channels)
    return body


@contextmanager
def _fetching(name: object, weights_name: str, *, fetched: bool) -> Iterator[None]:
    """Say what to do where weights cannot be fetched: timm and torchvision tell of the network alone."""
    try:
        yield
    except OSError as error:
        if not fetched:
            raise
        file = f"{weights_name}=FILE" + (", or --weights FILE of pst propagate" if weights_name == "weights" else "")
        raise OSError(
            f"the published weights of {str(name)[:80]} cannot be fetched: {first_line(error).rstrip('.')}; "
            f"without a network give a local file of them: {file}"
        ) from error


def levels_from(finest: int, coarsest: int = 32) -> list[int]:
    """Reductions from the finest level to the coarsest.

    Raises:
        ValueError: ``finest`` is none of 4, 8, 16 and 32, or coarser than ``coarsest``.
    """
    if isinstance(finest, bool) or finest not in REDUCTIONS or finest > coarsest:
        wanted = [r for r in REDUCTIONS if r <= coarsest]
        raise ValueError(f"finest, the reduction of the finest level, must be one of {wanted}, got {finest!r}")
    return [r for r in REDUCTIONS if finest <= r <= coarsest]


def portable_name(model: nn.Module, name: Any) -> Any:
    """What builds the network of the body in a model again without the Hub.

    It is transformers' configuration as JSON, where the network is of transformers, else ``name``.
    """
    return next((m.network_config for m in model.modules() if hasattr(m, "network_config")), name)
