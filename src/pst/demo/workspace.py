"""The demo's output folder, which remembers what is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pst.demo.settings import Settings
from pst.io.files import read_json, write_text


class Workspace:
    """The demo's output folder and the names in it.

    Attributes:
        digits: The embedded data set.
        last: Checkpoint to resume from; exists while the training is unfinished.
        best: The trained model.
        trained: Marks the training as finished.
        curves: Ultralytics' table of losses and metrics, a line for each epoch.
        rows: Folder of one JSON file for each row of the table.
        report: The report.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.digits, self.rows, self.report = root / "digits", root / "rows", root / "report.html"
        self.last, self.best, self.trained = root / "last.pt", root / "best.pt", root / "trained.json"
        self.curves, self._stamp = root / "train" / "results.csv", root / "settings.json"

    def claim(self, settings: Settings, *, restart: bool) -> None:
        """Make the folder ready for ``settings``: new, or with finished work of the very same settings.

        Raises:
            FileExistsError: The folder holds something that is not a demo's, which is left alone.
            ValueError: It holds a run of other settings and ``restart``, which deletes that, is false.
        """
        if self._stamp.is_file():
            if restart:
                self._clear()
        elif self.root.exists() and any(self.root.iterdir()):
            raise FileExistsError(f"{self.root} is not empty and holds no demo: choose another folder with --out")
        self.root.mkdir(parents=True, exist_ok=True)
        if not self._stamp.is_file():
            write_text(self._stamp, json.dumps(settings.stamp(), indent=2))
        wanted = settings.stamp()
        try:
            found = read_json(self._stamp)
        except ValueError as error:
            raise ValueError(f"{self._stamp} is damaged: pass --restart to start over, or another --out") from error
        if found != wanted:
            changes = [f"{k}: {found.get(k)!r} → {v!r}" for k, v in wanted.items() if found.get(k) != v]
            raise ValueError(
                f"{self.root} holds a demo of other settings ({', '.join(changes)}): pass --restart to delete it and "
                "start over, or another --out"
            )

    def _clear(self) -> None:
        for folder in (self.digits, self.root / "train", self.root / "val", self.rows):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.last, self.best, self.trained, self.report, self._stamp):
            file.unlink(missing_ok=True)
