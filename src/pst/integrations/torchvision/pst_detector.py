"""Detectors that can be saved to a folder or to the Hugging Face Hub."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from pst.backbones import Name, Weights, portable_name
from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, per_channel
from pst.backbones.plain import PlainBody
from pst.integrations.torchvision.detectors import faster_rcnn, fcos, mask_rcnn, retinanet
from pst.io.hub import PSTHubMixin
from pst.modules.necks import Neck

BUILDERS = {"retinanet": retinanet, "fcos": fcos, "faster_rcnn": faster_rcnn, "mask_rcnn": mask_rcnn}


class PSTDetector(nn.Module, PSTHubMixin, pipeline_tag="object-detection"):
    """One of the four detectors with the methods of `pst.io.hub`: `save_pretrained`, `from_pretrained`, `push_to_hub`.

    Args:
        kind: "retinanet", "fcos", "faster_rcnn" or "mask_rcnn".
        backbone: Name of a network, or its configuration, see `pst.backbones.build_body`.
        num_classes: As torchvision counts: with the background, label 0, for the R-CNNs.
        neck: "pst", "fpn" or "none", as in that function, whose default is another.
        pretrained: Where the backbone's weights come from when this is built; not when it is loaded.
        backbone_weights: Likewise, a local file or a state dict.
        options: Other arguments of the function called ``kind``, e.g. ``topk``, ``min_size``; what is to be saved
            must be JSON.

    Attributes:
        model: torchvision's model.

    Raises:
        ValueError: The kind or an option is unknown, or the weights are another network's.

    Examples:
        >>> detector = PSTDetector("fcos", "resnet18", 3, min_size=64, max_size=64).eval()
        >>> sorted(detector([torch.rand(3, 64, 64)])[0])
        ['boxes', 'labels', 'scores']
    """

    hub_classes = "num_classes"
    hub_start: ClassVar[dict[str, Any]] = {"pretrained": False, "backbone_weights": None}

    def __init__(
        self,
        kind: str,
        backbone: Name,
        num_classes: int,
        *,
        neck: Neck = "pst",
        pretrained: bool | str = False,
        backbone_weights: Weights | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        if kind not in BUILDERS:
            raise ValueError(f"kind must be one of {', '.join(sorted(BUILDERS))}, got {kind!r}")
        build: Any = BUILDERS[kind]
        start = {"pretrained": pretrained, "backbone_weights": backbone_weights}
        self.model = build(backbone, num_classes, neck=neck, **start, **options)
        self.pretrained = bool(pretrained) or backbone_weights is not None

    def hub_config(self) -> dict[str, Any]:
        """Arguments that build this model again; what the start decides is written out, since loading drops it."""
        config = super().hub_config()
        frozen: dict[str, Any] = {"frozen_batchnorm": True} if self.pretrained else {}
        if self.pretrained and not isinstance(self.model.backbone.body, PlainBody):
            frozen["trainable_layers"] = 3
        given, transform = config.get("backbone_options"), self.model.transform
        statistics = {key: [float(v) for v in getattr(transform, key)] for key in ("image_mean", "image_std")}
        return config | statistics | {"backbone_options": frozen | ({} if given is None else given)}

    @classmethod
    def _from_pretrained(cls, *, config: dict[str, Any] | None = None, **options: Any) -> PSTDetector:
        model: PSTDetector = super()._from_pretrained(config=config, **options)
        of_imagenet = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
        for key, values in of_imagenet.items():
            if config is not None and config.get(key) is None and options.get(key) is None:  # of an earlier version
                setattr(model.model.transform, key, list(per_channel(values, model.model.backbone.body.in_channels)))
        return model

    def hub_described(self) -> dict[str, Any]:
        """The backbone by its own configuration where its name would ask the Hub."""
        return {"backbone": portable_name(self.model.backbone, self.backbone)}

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """As torchvision's detectors: a dict of losses while training, else one dict of boxes per image."""
        return self.model(images, targets)
