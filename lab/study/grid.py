"""A study's YAML file as a list of cells."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.study.variants import Variant, many, variants

RUNNERS = ("ultralytics", "classify", "segment", "detect", "retrieval")
_STUDY_KEYS = {"title", "runner", "seeds", "data", "models", "recipes", "evaluations", "cells", "comparisons"}


@dataclass(frozen=True)
class Cell:
    """One training and its evaluations.

    Attributes:
        id: Name of its result file: data, model, recipe and seed.
        model: Name in the study.
        recipe: Likewise.
        data: Likewise.
        seed: Of the training.
        runner: One of `RUNNERS`.
        settings: All that decides the result: the data set's, model's and recipe's entries.
        variants: Evaluations, the one that gains are measured over first.
        model_digest: Changes with the content of the file that ``settings["models"]["yaml"]`` names; None where it
            names none of the study's folder.
    """

    id: str
    model: str
    recipe: str
    data: str
    seed: int
    runner: str
    settings: Mapping[str, Any]
    variants: tuple[Variant, ...]
    model_digest: str | None

    @property
    def digest(self) -> str:
        """Changes with whatever changes the result."""
        return _hash([self.seed, self.runner, self.settings, [v.name for v in self.variants]])

    @property
    def training_digest(self) -> str:
        """Changes with whatever changes the training; other evaluations go on from the same weights."""
        settings = {kind: entry for kind, entry in self.settings.items() if kind != "evaluations"}
        return _hash([self.seed, self.runner, settings, self.model_digest])

    def made(self, result: Mapping[str, Any]) -> bool:
        """Whether a result is of these settings and, where it says of which, of this model file."""
        return result["digest"] == self.digest and result.get("model_digest") in (None, self.model_digest)


@dataclass(frozen=True)
class Study:
    """A grid of cells.

    Attributes:
        name: Stem of the YAML file.
        title: For the report.
        folder: Of the YAML file; models that are files are found from here.
        cells: In the order in which they should be run.
        comparisons: What the report compares, see `lab.study.tables`; of all data sets or those in ``data``; those
            in ``overview`` come into the picture of all studies.
    """

    name: str
    title: str
    folder: Path
    cells: tuple[Cell, ...]
    comparisons: tuple[Mapping[str, Any], ...]


def load_study(path: str | Path) -> Study:
    """Read a study.

    Its entries ``data``, ``models``, ``recipes`` and ``evaluations`` are mappings of names; ``cells`` lists
    ``{model: […], recipe: […], data: […], seeds: […]}``, each expanded to all combinations, data outermost, seeds next.
    A model without ``evaluations`` is evaluated once, as it was trained; a recipe may name others for models with them.
    Every value of an evaluation may be a list of alternatives, and an alternative for ``k`` a list itself, of one k for
    each attention layer: ``{k: [0, 8, all, [8, 0], [0, 8]]}`` are five.

    Args:
        path: YAML file.

    Raises:
        FileNotFoundError: No such file.
        ImportError: PyYAML is not installed.
        ValueError: A key is unknown, a name is not defined, or two cells have one id.
    """
    try:
        from pst.data.yaml_file import read_mapping
    except ImportError as error:
        raise ImportError(f"a study is a YAML file ({error}): pip install pyyaml") from error
    path = Path(path)
    d = read_mapping(path)
    try:
        return _study(d, path)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not a study: {type(error).__name__}: {error}; see docs/studies.md") from error


def _study(d: dict[str, Any], path: Path) -> Study:
    if unknown := d.keys() - _STUDY_KEYS:
        raise ValueError(f"{path}: unknown entries {sorted(map(str, unknown))}; known are {sorted(_STUDY_KEYS)}")
    if d.get("runner") not in RUNNERS:
        raise ValueError(f"{path}: runner must be one of {list(RUNNERS)}, got {d.get('runner')!r}")
    files = {name: path.parent / str((entry or {}).get("yaml", "")) for name, entry in d["models"].items()}
    digests = {name: _model_digest(file) for name, file in files.items()}
    cells = [cell for block in d["cells"] for cell in _expand(d, block, path, digests)]
    if len({cell.id for cell in cells}) < len(cells):
        twice = sorted({c.id for c in cells if sum(o.id == c.id for o in cells) > 1})
        raise ValueError(f"{path}: cells listed twice: {twice}")
    title, comparisons = d.get("title", path.stem), tuple(d.get("comparisons", ()))
    return Study(path.stem, title, path.parent.resolve(), tuple(cells), comparisons)


def _expand(
    d: Mapping[str, Any], block: Mapping[str, Any], path: Path, model_digests: Mapping[str, str | None]
) -> Iterable[Cell]:
    wanted = {"data", "model", "recipe"}
    if not wanted <= block.keys() <= {*wanted, "seeds"}:
        raise ValueError(f"{path}: a cell needs {sorted(wanted)} and may have seeds, got {sorted(block)}")
    seeds = block.get("seeds", d.get("seeds", [0]))
    for data, seed, recipe, model in itertools.product(
        many(block["data"]), many(seeds), many(block["recipe"]), many(block["model"])
    ):
        entries = {"data": (d["data"], data), "models": (d["models"], model), "recipes": (d.get("recipes", {}), recipe)}
        missing = [f"{name} in {kind}" for kind, (table, name) in entries.items() if name not in table]
        if missing:
            raise ValueError(f"{path}: a cell names {', '.join(missing)}, which is not defined there")
        settings: dict[str, Any] = {kind: dict(table[name] or {}) for kind, (table, name) in entries.items()}
        of_model, of_recipe = (settings[kind].pop("evaluations", None) for kind in ("models", "recipes"))
        settings["evaluations"] = of_model if of_model is None or of_recipe is None else of_recipe
        listed = [{"k": 0}] if settings["evaluations"] is None else d["evaluations"][settings["evaluations"]]
        listed = [*listed, *settings["data"].pop("evaluations", ())] if settings["evaluations"] is not None else listed
        yield Cell(
            id=f"{data}-{model}-{recipe}-{seed}",
            model=model,
            recipe=recipe,
            data=data,
            seed=int(seed),
            runner=d["runner"],
            settings=settings,
            variants=tuple(v for entry in listed for v in variants(entry, path)),
            model_digest=model_digests[model],
        )


def _model_digest(path: Path) -> str | None:
    """Of what a YAML file says, comments left out."""
    if not path.is_file():
        return None
    from pst.data.yaml_file import read_mapping

    return _hash(read_mapping(path))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
