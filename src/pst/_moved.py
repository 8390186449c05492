"""Import paths of version 0.1: they work until 0.3, with a DeprecationWarning, or say where their content went."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "pst.calibration": "pst.control.statistics",
    "pst.checkpoint": "pst.io.checkpoints",
    "pst.data.boxes": "pst.data.detection",
    "pst.environment": "pst.profile.environment",
    "pst.export.rules": "pst.export.limits",
    "pst.files": "pst.io.files",
    "pst.hub": "pst.io.hub",
    "pst.integrations.torchvision.hub": "pst.integrations.torchvision.pst_detector",
    "pst.integrations.ultralytics.models": "pst.integrations.ultralytics.zoo",
    "pst.train.pictures": "pst.train.predict",
    "pst.train.tasks.boxes": "pst.train.tasks.detection_metrics",
    "pst.tuning": "pst.control.training",
}
GONE = {
    "pst.bench": "python -m lab bench, in a checkout of the repository",
    "pst.study": "python -m lab study, in a checkout of the repository",
}


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 the protocol's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname in GONE:
            raise ModuleNotFoundError(f"{fullname} left the package: use {GONE[fullname]}", name=fullname)
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}; the old name goes with 0.3", DeprecationWarning, stacklevel=2)

    def exec_module(self, module: ModuleType) -> None:
        """The new module itself takes the old name, so that both have the same content."""
        sys.modules[module.__name__] = import_module(MOVED[module.__name__])


def install() -> None:
    """Let the old names be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
