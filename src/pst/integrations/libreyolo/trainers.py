"""LibreYOLO's trainers of YOLO9, which say in every checkpoint that there is PST in it."""

from __future__ import annotations

from typing import Any

from libreyolo.models.yolo9.trainer import YOLO9Trainer
from libreyolo.models.yolo9_p2.trainer import YOLO9P2Trainer


class YOLO9PSTTrainer(YOLO9Trainer):
    """Trainer of `LibreYOLO9PST`."""

    artifact_model_families = ("yolo9_pst",)

    def get_model_family(self) -> str:
        """The family in a checkpoint."""
        return self.artifact_model_families[0]

    def get_model_tag(self) -> str:
        """The name in logs."""
        return f"{super().get_model_tag()}-PST"

    def _checkpoint_extra_metadata(self) -> dict[str, Any]:
        model: Any = self.wrapper_model
        return super()._checkpoint_extra_metadata() | model.pst_entry()


class YOLO9P2PSTTrainer(YOLO9PSTTrainer, YOLO9P2Trainer):
    """Trainer of `LibreYOLO9P2PST`."""

    artifact_model_families = ("yolo9_p2_pst",)
