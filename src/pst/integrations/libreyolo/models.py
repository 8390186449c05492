"""LibreYOLO's YOLO9 and YOLO9-P2 as families of their own, with PST in the neck.

A LibreYOLO checkpoint names a family, and `LibreYOLO` builds the class that is registered for it; a subclass of the
host's is registered when it is defined. So these train, save, resume, load and export as the host's own families do,
through the methods that LibreYOLO's base class leaves to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from libreyolo import LibreYOLO9, LibreYOLO9P2
from libreyolo.models.yolo9.nn import YOLO9_CONFIGS
from libreyolo.models.yolo9_p2.nn import YOLO9_P2_CONFIGS
from libreyolo.utils.serialization import wrap_libreyolo_checkpoint
from torch import Tensor, nn

from pst.integrations.libreyolo.description import ENTRY, Description, describe, described
from pst.integrations.libreyolo.neck import Place, PSTFusion, places, put_pst
from pst.integrations.libreyolo.trainers import YOLO9P2PSTTrainer, YOLO9PSTTrainer
from pst.io.layer_settings import restore_settings
from pst.io.model_config import at_most

if TYPE_CHECKING:
    Base = LibreYOLO9
else:
    Base = object  # whatever has LibreYOLO9 among its bases is registered as a family

_INSIDE = ".pst."  # in the name of every tensor of a `PSTFusion`
_SOURCE = "this checkpoint"  # LibreYOLO puts the file's name before what is raised while it loads


class WithPST(Base):
    """What both families share; `add_pst` makes one of a host's model.

    Args:
        model_path: As LibreYOLO's: a checkpoint, a state dict, or None for fresh weights.
        size: LibreYOLO's letter.
        levels: See `add_pst`; a checkpoint has its own.
        pst_options: Options of `pst.PST`, see `add_pst`; a checkpoint has its own.
        **options: The host's, e.g. ``nb_classes``, ``device``.

    Attributes:
        description: Where PST stands, and how it is built.

    Raises:
        TypeError: See `add_pst`.
        ValueError: See `add_pst`.
    """

    HOST: ClassVar[type[LibreYOLO9]]
    CONFIGS: ClassVar[Mapping[str, Mapping[str, Any]]]
    FILENAME_PREFIX = ""  # such weights are not published: no file name stands for some to be downloaded
    WEIGHT_VARIANTS = ()
    SUPPORTS_CUDA_GRAPH = False  # the host wants each family tested for it

    def __init__(
        self,
        model_path: Any,
        size: str,
        *,
        levels: Sequence[int] | None = None,
        pst_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if size in self.CONFIGS:  # the host's __init__ says what a size must be
            choices = tuple(places(self.CONFIGS[size]))
            self.description = describe(levels, choices, {} if pst_options is None else pst_options)
        super().__init__(model_path, size, **options)

    @classmethod
    def can_load(cls, weights_dict: dict[str, Any]) -> bool:
        """Whether these are weights of the host's neck with PST in it."""
        return any(n.startswith("neck.") and _INSIDE in n for n in weights_dict) and cls.HOST.can_load(weights_dict)

    @classmethod
    def convert_upstream_state_dict(cls, state_dict: dict[str, Any]) -> None:
        """None: weights of other projects are for the host's families."""

    def pst_entry(self) -> dict[str, Any]:
        """What a checkpoint says of the PST layers, see `Description.entry`."""
        return {ENTRY: self.description.entry(self.model)}

    def export(self, format: str = "onnx", *, opset: int = 17, **options: Any) -> str:
        """As the host's: the file is the host's family to LibreYOLO's runtimes, which need no pst.

        Attention is in ONNX from opset 14 on; LibreYOLO's own default for YOLO9 is 13.
        """
        model = like(self, self.HOST)
        model.model, model.model_path = self.model, self.model_path
        model.FILENAME_PREFIX = f"{self.HOST.FILENAME_PREFIX}PST"  # of the file, where its name is left to LibreYOLO
        return model.export(format, opset=opset, **options)

    @property
    def pst_places(self) -> list[Place]:
        """Where in the neck there is PST."""
        return [self._places[level] for level in self.description.levels]

    @property
    def _places(self) -> dict[int, Place]:
        return places(self.CONFIGS[self.size])

    def _init_model(self) -> nn.Module:
        model = super()._init_model()
        put_pst(model.neck, self._places, self.description)
        return model

    def _validate_loaded_state_dict_for_task(
        self, state_dict: dict[str, Tensor], checkpoint: dict[str, Any] | None = None
    ) -> None:
        """Fit the neck to a checkpoint before its weights are loaded, and refuse one that lacks some of PST's.

        The host loads the weights that fit, and no more than warns of the others.
        """
        super()._validate_loaded_state_dict_for_task(state_dict, checkpoint)
        settings: dict[str, Any] = {}
        if checkpoint is not None and "model_family" in checkpoint:
            description, settings = described(checkpoint.get(ENTRY), tuple(self._places), _SOURCE)
            self._fit(description, sum(t.numel() for t in state_dict.values()))
        expected = {name: t.shape for name, t in self.model.state_dict().items() if _INSIDE in name}
        wrong = [name for name, shape in expected.items() if name not in state_dict or state_dict[name].shape != shape]
        if wrong:
            raise ValueError(f"{_SOURCE} has other PST layers than it describes: {wrong[0]} is missing or does not fit")
        restore_settings(self.model, settings, _SOURCE)

    def _fit(self, description: Description, held: int) -> None:
        if description.builds_as(self.description):
            return
        with at_most(held, _SOURCE), torch.device("meta"):
            for level in description.levels:
                PSTFusion(self._places[level], **description.options)
        self.description = description
        self.model.neck = self._init_model().neck.to(self.device)

    def _save_extra_metadata(self) -> dict[str, Any]:
        return super()._save_extra_metadata() | self.pst_entry()

    def _ddp_bootstrap_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Any]:
        """What the processes of a training on several GPUs start from."""
        return wrap_libreyolo_checkpoint(
            state_dict,
            model_family=self.FAMILY,
            size=self.size,
            task=self.task,
            nc=self.nb_classes,
            names=self.names,
            **self._save_extra_metadata(),
        )

    def _default_transfer_weights_name(self) -> str:
        return f"{self.HOST.FILENAME_PREFIX}{self.size}{self.WEIGHT_EXT}"


class LibreYOLO9PST(WithPST, LibreYOLO9):
    """YOLO9 with PST in its neck, see `add_pst`; a LibreYOLO family of its own."""

    HOST = LibreYOLO9
    CONFIGS = YOLO9_CONFIGS
    FAMILY = "yolo9_pst"
    TRANSFER_COMPATIBLE_FAMILIES = ("yolo9",)

    def _trainer_class(self) -> type[YOLO9PSTTrainer]:
        return YOLO9PSTTrainer


class LibreYOLO9P2PST(WithPST, LibreYOLO9P2):
    """YOLO9-P2, which also detects at stride 4, with PST in its neck, see `add_pst`; a LibreYOLO family of its own."""

    HOST = LibreYOLO9P2
    CONFIGS = YOLO9_P2_CONFIGS
    FAMILY = "yolo9_p2_pst"
    TRANSFER_COMPATIBLE_FAMILIES = ("yolo9", "yolo9_p2")

    def _trainer_class(self) -> type[YOLO9P2PSTTrainer]:
        return YOLO9P2PSTTrainer


def like(model: LibreYOLO9, family: type[LibreYOLO9], **options: Any) -> LibreYOLO9:
    """A fresh model of another family, for the same classes, images and device as ``model``."""
    made = family(
        None, model.size, reg_max=model.reg_max, nb_classes=model.nb_classes, device=str(model.device), **options
    )
    made.names, made.input_size, made.letterbox_pad = dict(model.names), model.input_size, model.letterbox_pad
    return made
