"""The encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst.backbones import Name, Weights, build_body, levels_from, portable_name
from pst.control.layers import eval_mode
from pst.integrations.segmentation.decoder import SegmentationDecoder
from pst.integrations.segmentation.heads import Activation, build_activation, build_classifier
from pst.io.hub import PSTHubMixin
from pst.modules.necks import Neck, neck_arguments


class PSTSegmenter(nn.Module, PSTHubMixin, pipeline_tag="image-segmentation"):
    """An encoder, a PST pyramid over its maps of reduction ``finest`` to 32, and a light head.

    Each level of the pyramid passes a 3×3 convolution to a common width, is resized to the finest level and added; a
    1×1 convolution gives the classes, which are resized to the image (Semantic FPN, arXiv 1901.02446, with one
    convolution per level). Images may have any size, not only multiples of 32. `save_pretrained` and
    `from_pretrained` are those of `pst.io.hub`.

    Args:
        encoder_name: timm's name of the backbone; a leading "tu-" is dropped. Or "hf:NAME" or a configuration, see
            `pst.backbones.build_body`.
        encoder_weights: None or False for random weights, True or "imagenet" for the default ones, else timm's tag.
        in_channels: Of the images.
        classes: Channels of the result.
        activation: Of the result: None or "identity", "sigmoid", "softmax" or "softmax2d", "logsoftmax", "tanh",
            "argmax" or "argmax2d", "clamp", or a class or function that makes a Module.
        backbone_weights: In place of ``encoder_weights``: a local file or a state dict, see ``weights`` of
            `pst.backbones.build_body`.
        encoder_depth: The coarsest map has reduction 2^encoder_depth; 3 to 5.
        finest: Reduction of the finest map that is decoded: 4, 8 or 16, less than the coarsest. Borders need 4, which
            has four times the queries of 8; ``docs/vit.md`` says what it costs.
        decoder_pyramid_channels: Width of the pyramid.
        decoder_segmentation_channels: Common width of the head.
        aux_params: Adds a classifier of the image on the coarsest map, and a second result: ``classes``, and optionally
            ``pooling`` ("avg", "max"), ``dropout`` and ``activation``.
        neck: "pst", "fpn" for torchvision's FeaturePyramidNetwork, or "none" for a 1×1 convolution of each map alone,
            with which neck and head take 0.6 of the time for one image on a CPU; on a frozen encoder, from stride 4, it
            was level with "pst" on test and behind on val, see ``docs/frozen.md``.
        topk: k of the PST layers, see `pst.PSTPyramid`; change it later with `pst.set_topk`.
        neck_options: More arguments of `pst.PSTPyramid` or FeaturePyramidNetwork.
        encoder_options: More arguments of `pst.backbones.build_body` and ``timm.create_model``, e.g. ``frozen`` of a
            plain vision transformer.

    Attributes:
        encoder_name: As given, without "tu-".
        encoder: Images -> OrderedDict of maps by ``str(reduction)``.
        decoder: Those maps -> (B, decoder_segmentation_channels, ~H/finest, ~W/finest).
        segmentation_head: That map -> logits (B, classes, ~H/finest, ~W/finest).
        activation: After resizing.
        classification_head: Coarsest map -> (B, classes); None without ``aux_params``.

    Raises:
        FileNotFoundError: ``backbone_weights`` names no file.
        ValueError: The backbone is unknown or no hierarchy, an option is unknown, ``topk`` is given without PST, or
            ``backbone_weights`` are another network's or given beside ``encoder_weights``.

    Examples:
        >>> model = PSTSegmenter("resnet18", classes=11, decoder_pyramid_channels=64).eval()
        >>> model.predict(torch.rand(1, 3, 99, 131)).argmax(1).shape
        torch.Size([1, 99, 131])
    """

    hub_classes = "classes"
    hub_start: ClassVar[dict[str, Any]] = {"encoder_weights": None, "backbone_weights": None}

    def __init__(
        self,
        encoder_name: Name = "resnet18",
        encoder_weights: str | bool | None = None,
        in_channels: int = 3,
        classes: int = 1,
        activation: Activation = None,
        *,
        backbone_weights: Weights | None = None,
        encoder_depth: int = 5,
        finest: int = 4,
        decoder_pyramid_channels: int = 256,
        decoder_segmentation_channels: int = 128,
        aux_params: Mapping[str, Any] | None = None,
        neck: Neck = "pst",
        topk: int | Sequence[int] = 0,
        neck_options: Mapping[str, Any] | None = None,
        encoder_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if encoder_depth not in (3, 4, 5):
            raise ValueError(
                f"encoder_depth must be 3, 4 or 5 (coarsest map of reduction 8, 16, 32), got {encoder_depth}"
            )
        levels_from(finest, 2 ** (encoder_depth - 1))
        if classes < 1:
            raise ValueError(f"classes must be ≥ 1, got {classes}")
        self.activation = build_activation(activation)
        self.encoder_name = encoder_name.removeprefix("tu-") if isinstance(encoder_name, str) else encoder_name
        self.encoder: Any = build_body(
            self.encoder_name,
            pretrained=_weights(encoder_weights),
            weights=backbone_weights,
            weights_name="backbone_weights",
            finest=finest,
            coarsest=2**encoder_depth,
            in_channels=in_channels,
            **({} if encoder_options is None else encoder_options),
        )
        options = neck_arguments(neck, topk, neck_options)
        widths = decoder_pyramid_channels, decoder_segmentation_channels
        reductions, channels = self.encoder.reductions, self.encoder.channels
        self.decoder = SegmentationDecoder(reductions, channels, *widths, neck, finest, **options)
        self.segmentation_head = nn.Conv2d(decoder_segmentation_channels, classes, 1)
        aux = None if aux_params is None else build_classifier(self.encoder.channels[-1], **aux_params)
        self.classification_head = aux

    def hub_config(self) -> dict[str, Any]:
        """Arguments that build this model again; the encoder's mean and deviation are written out."""
        config = super().hub_config()
        statistics = {"mean": list(self.encoder.mean), "std": list(self.encoder.std)}
        given = config.get("encoder_options")
        return config | {"encoder_options": ({} if given is None else given) | statistics}

    def hub_described(self) -> dict[str, Any]:
        """The encoder by its own configuration where its name would ask the Hub."""
        return {"encoder_name": portable_name(self.encoder, self.encoder_name)}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Segment.

        Args:
            x: (B, in_channels, H, W), normalised as the encoder was trained: from 0 to 1, minus ``encoder.mean``,
                divided by ``encoder.std``.

        Returns:
            (B, classes, H, W), without the second dimension for "argmax"; with ``aux_params`` also labels (B, n).

        Raises:
            ValueError: The shape does not fit, or the encoder takes one size only.
        """
        if x.ndim != 4:
            raise ValueError(f"expected images (batch, channels, height, width), got shape {tuple(x.shape)}")
        height, width = x.shape[2:]
        maps = self.encoder(x)  # (B, C_r, ~H/r, ~W/r) for each reduction r
        logits = self.segmentation_head(self.decoder(maps))  # (B, classes, ~H/4, ~W/4)
        m = self.encoder.multiple
        filled = height + -height % m, width + -width % m  # the maps stand for the image as the encoder filled it up
        logits = F.interpolate(logits, filled, mode="bilinear", align_corners=False)
        masks = self.activation(logits[..., :height, :width])  # (B, classes, H, W)
        if self.classification_head is None:
            return masks
        return masks, self.classification_head(next(reversed(maps.values())))

    @torch.inference_mode()
    def predict(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """`forward` in eval mode, without gradients; every part keeps its own mode."""
        with eval_mode(self):
            return self(x)


def register_smp() -> None:
    """Make ``segmentation_models_pytorch.create_model("pst", encoder_name=…, classes=…)`` build a `PSTSegmenter`.

    Raises:
        ImportError: segmentation_models_pytorch is not installed, or keeps its architectures elsewhere.
    """
    try:
        from segmentation_models_pytorch import MODEL_ARCHITECTURES_MAPPING  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("register_smp needs segmentation_models_pytorch ≥ 0.4 beside pst") from error
    MODEL_ARCHITECTURES_MAPPING["pst"] = PSTSegmenter


def _weights(encoder_weights: str | bool | None) -> str | bool:
    """segmentation_models_pytorch's argument as timm's."""
    if encoder_weights is None:
        return False
    return True if encoder_weights == "imagenet" else encoder_weights
