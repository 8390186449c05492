"""A study's YAML file as a list of cells."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNNERS = ("ultralytics", "classify", "segment", "detect")
_STUDY_KEYS = {"title", "runner", "seeds", "data", "models", "recipes", "evaluations", "cells", "comparisons"}
_VARIANT_DEFAULTS: dict[str, Any] = {
    "k": 0, "fusion": "gate", "selection": "mean", "gate": None, "imgsz": None, "use": "trained",
}  # fmt: skip
_USES = ("trained", "calibrated", "tuned")
ALL_TOKENS = 10**6  # k = M


@dataclass(frozen=True)
class Variant:
    """One way of evaluating a trained model.

    Attributes:
        k: Refined tokens; `ALL_TOKENS` for all.
        fusion: "gate" or "refine".
        selection: Name of a selection rule; "random:1" is the random control with seed 1.
        gate: Constant that takes the learned gate's place, in (0, 1); None for the learned gate.
        imgsz: Longest side of the images; None for that of the training.
        use: "trained" weights as they are; "calibrated" with separate statistics of the fine map from unlabelled
            training images; "tuned" with these and the gate trained for one more epoch.
    """

    k: int
    fusion: str
    selection: str
    gate: float | None
    imgsz: int | None
    use: str

    @property
    def name(self) -> str:
        """Short, unique among a cell's variants: "k8-refine-random:1-calibrated@640"."""
        size = "" if self.imgsz is None else f"@{self.imgsz}"
        if self.k == 0:
            return f"k0{size}"
        parts = ["kM" if self.k == ALL_TOKENS else f"k{self.k}", self.fusion]
        parts += [f"{self.gate:g}"] if self.gate is not None else []
        parts += [self.selection] if self.selection != "mean" else []
        parts += [self.use] if self.use != "trained" else []
        return "-".join(parts) + size


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
    """

    id: str
    model: str
    recipe: str
    data: str
    seed: int
    runner: str
    settings: Mapping[str, Any]
    variants: tuple[Variant, ...]

    @property
    def digest(self) -> str:
        """Changes with whatever changes the result."""
        text = json.dumps([self.seed, self.runner, self.settings, [v.name for v in self.variants]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Study:
    """A grid of cells.

    Attributes:
        name: Stem of the YAML file.
        title: For the report.
        folder: Of the YAML file; models that are files are found from here.
        cells: In the order in which they should be run.
        comparisons: What the report compares, see `pst.study.tables`.
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

    Args:
        path: YAML file.

    Raises:
        FileNotFoundError: No such file.
        ImportError: PyYAML is not installed.
        ValueError: A key is unknown, a name is not defined, or two cells have one id.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"a study is a YAML file ({error}): pip install pyyaml") from error
    path = Path(path)
    d = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = d.keys() - _STUDY_KEYS if isinstance(d, dict) else {type(d).__name__}
    if unknown:
        raise ValueError(f"{path}: unknown entries {sorted(unknown)}; known are {sorted(_STUDY_KEYS)}")
    if d.get("runner") not in RUNNERS:
        raise ValueError(f"{path}: runner must be one of {list(RUNNERS)}, got {d.get('runner')!r}")
    cells = [cell for block in d["cells"] for cell in _expand(d, block, path)]
    if len({cell.id for cell in cells}) < len(cells):
        twice = sorted({c.id for c in cells if sum(o.id == c.id for o in cells) > 1})
        raise ValueError(f"{path}: cells listed twice: {twice}")
    title, comparisons = d.get("title", path.stem), tuple(d.get("comparisons", ()))
    return Study(path.stem, title, path.parent.resolve(), tuple(cells), comparisons)


def _expand(d: Mapping[str, Any], block: Mapping[str, Any], path: Path) -> Iterable[Cell]:
    wanted = {"data", "model", "recipe"}
    if not wanted <= block.keys() <= {*wanted, "seeds"}:
        raise ValueError(f"{path}: a cell needs {sorted(wanted)} and may have seeds, got {sorted(block)}")
    seeds = block.get("seeds", d.get("seeds", [0]))
    for data, seed, recipe, model in itertools.product(
        _many(block["data"]), _many(seeds), _many(block["recipe"]), _many(block["model"])
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
            variants=tuple(v for entry in listed for v in _variants(entry, path)),
        )


def _variants(entry: Mapping[str, Any], path: Path) -> Iterable[Variant]:
    """All combinations of one entry of ``evaluations``, whose values may be lists."""
    if unknown := entry.keys() - _VARIANT_DEFAULTS.keys():
        raise ValueError(f"{path}: an evaluation has {sorted(unknown)}; known are {sorted(_VARIANT_DEFAULTS)}")
    full = {**_VARIANT_DEFAULTS, **entry}
    for values in itertools.product(*(_many(value) for value in full.values())):
        fields = dict(zip(full, values, strict=True))
        if fields["use"] not in _USES:
            raise ValueError(f"{path}: use must be one of {list(_USES)}, got {fields['use']!r}")
        k = ALL_TOKENS if fields["k"] == "all" else int(fields["k"])
        yield Variant(**{**fields, "k": k})


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
