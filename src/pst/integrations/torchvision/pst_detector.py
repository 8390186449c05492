"""Detectors that can be saved to a folder or to the Hugging Face Hub."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from pst.integrations.torchvision.detectors import faster_rcnn, fcos, mask_rcnn, retinanet
from pst.io.hub import PSTHubMixin

BUILDERS = {"retinanet": retinanet, "fcos": fcos, "faster_rcnn": faster_rcnn, "mask_rcnn": mask_rcnn}


class PSTDetector(nn.Module, PSTHubMixin, pipeline_tag="object-detection"):
    """One of the four detectors with `save_pretrained`, `from_pretrained` and `push_to_hub`, see `pst.io.hub`.

    Args:
        kind: "retinanet", "fcos", "faster_rcnn" or "mask_rcnn".
        backbone: Name of a network.
        num_classes: See the builder, as for all others.
        pretrained: Where the backbone's weights come from when this is built; not when it is loaded.
        options: The builder's other arguments; what is to be saved must be JSON.

    Attributes:
        model: torchvision's model.

    Raises:
        ValueError: The kind is unknown, or see the builder.
    """

    hub_classes = "num_classes"
    hub_start: ClassVar[dict[str, Any]] = {"pretrained": False}

    def __init__(
        self, kind: str, backbone: str, num_classes: int, *, pretrained: bool | str = False, **options: Any
    ) -> None:
        super().__init__()
        if kind not in BUILDERS:
            raise ValueError(f"kind must be one of {sorted(BUILDERS)}, got {kind!r}")
        build: Any = BUILDERS[kind]
        self.model = build(backbone, num_classes, pretrained=pretrained, **options)
        self.pretrained = bool(pretrained)

    def hub_config(self) -> dict[str, Any]:
        """Arguments that build this model again; what ``pretrained`` decides is written out, since loading drops it."""
        config = super().hub_config()
        frozen = {"frozen_batchnorm": True, "trainable_layers": 3} if self.pretrained else {}
        given = config.get("backbone_options")
        return config | {"backbone_options": frozen | ({} if given is None else given)}

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """As torchvision's detectors: a dict of losses while training, else one dict of boxes per image."""
        return self.model(images, targets)
