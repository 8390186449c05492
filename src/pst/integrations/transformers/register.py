"""What lets transformers' Auto classes load the detectors here."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForObjectDetection

from pst.integrations.transformers.model import MODELS


def register() -> None:
    """Tell transformers of the configurations and models here; a second call changes nothing."""
    for kind in MODELS:
        AutoConfig.register(kind.config_class.model_type, kind.config_class, exist_ok=True)
        AutoModelForObjectDetection.register(kind.config_class, kind, exist_ok=True)
