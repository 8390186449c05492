"""Entry points for `timm.create_model`: ``pst_<name>`` for every model that timm has."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import register_model
from torch import nn

from pst.integrations.timm.classifier import PSTClassifier
from pst.integrations.timm.features import PSTFeatures

__all__: list[str] = ["register"]  # timm adds the names of the entry points


def register(backbone: str) -> None:
    """Make `timm.create_model` know ``pst_<backbone>``.

    Importing `pst.integrations.timm` has done so for timm's own models; this is for models that you register yourself.
    Whether a model has feature maps is seen when it is created. ``features_only=True`` creates a `PSTFeatures`,
    anything else a `PSTClassifier`, both with the arguments that the class has.

    Args:
        backbone: A name registered with timm, without a tag.

    Raises:
        ValueError: timm has no such model.
    """
    if not timm.is_model(backbone):
        raise ValueError(f"timm has no model {backbone!r}: register it with timm first")

    def create(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        features_only: bool = False,
        **options: Any,
    ) -> nn.Module:
        tag = isinstance(pretrained_cfg, str)
        name = f"{backbone}.{pretrained_cfg}" if tag else backbone
        if pretrained_cfg is not None and not tag:
            options["pretrained_cfg"] = pretrained_cfg
        build = PSTFeatures if features_only else PSTClassifier
        return build(name, pretrained=pretrained, **{k: v for k, v in options.items() if v is not None})

    create.__name__ = create.__qualname__ = f"pst_{backbone}"
    create.__doc__ = f"timm's {backbone} with PST."
    globals()[create.__name__] = create
    register_model(create)


for _name in timm.list_models():
    if not _name.startswith("pst_"):
        register(_name)
