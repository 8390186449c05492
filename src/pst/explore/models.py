"""Which models can be chosen, and loading the chosen one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pst.io.files import read_json

PROPAGATION = "propagation of labels"
DEMO = Path("runs/demo/best.pt")
_MOST, _DEPTH = 200, 4  # models that are listed of a folder, and folders that are looked into one below the other
_CONFIG, _SAVED, _RUN = "config.json", "model.safetensors", "best.safetensors"


class Choice(NamedTuple):
    """A model that can be chosen: what it is called, and its file or folder; None for propagation."""

    name: str
    path: Path | None


def find_models(given: Sequence[str | Path]) -> list[Choice]:
    """Models of files and folders, of the demo if there is one, and propagation last.

    Args:
        given: Files, run folders, folders of `save_pretrained`, or folders with any of these below them.

    Raises:
        FileNotFoundError: There is nothing at a path, no model in a folder, or a file that is none.
    """
    found: list[Choice] = []
    for path in map(Path, given):
        models = [path] if is_model(path) else _below(path)
        if not models:
            what = "no model at" if not path.exists() else "no model in" if path.is_dir() else "not a model:"
            raise FileNotFoundError(
                f"{what} {path}: expected a .pt or .safetensors file, a run folder, or a folder with such files"
            )
        found += [Choice(_name(model, path), model) for model in models]
    if DEMO.is_file():
        found.append(Choice("the demo's detector", DEMO))
    return [*_told_apart(found), Choice(PROPAGATION, None)]


def is_model(path: Path) -> bool:
    """Whether it looks like a model, by names alone."""
    if path.is_dir():
        return (path / _RUN).is_file() or ((path / _CONFIG).is_file() and (path / _SAVED).is_file())
    return path.is_file() and path.suffix in (".pt", ".safetensors")


def load_model(path: Path) -> Any:
    """The `pst.explore.networks.Network` of a file or folder; no code in it is executed.

    Raises:
        ImportError: The library of its adapter is missing.
        OSError: It cannot be read.
        ValueError: It is not a model, is damaged, or has no PST layer.
    """
    os.environ.setdefault("YOLO_OFFLINE", "true")  # read once, when Ultralytics is imported: it asks nobody anything
    from pst.explore import adapters, saved

    if path.is_dir() and (path / _CONFIG).is_file() and (path / _SAVED).is_file():
        return saved.SavedNetwork(path, read_json(path / _CONFIG))
    if path.is_dir() or (path.suffix == ".safetensors" and _is_of_a_run(path)):
        return adapters.TaskNetwork(path)
    return adapters.YOLONetwork(path)


def _is_of_a_run(path: Path) -> bool:
    from pst.io.checkpoints import load_safetensors

    return "pst_train" in load_safetensors(path)[1]


def _below(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """Models in a folder, in order of name; what belongs to a model that is a folder is not one of its own."""
    if not folder.is_dir() or depth == 0:
        return []
    found: list[Path] = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        found += [path] if is_model(path) else _below(path, depth - 1) if path.is_dir() else []
    return found[:_MOST]


def _name(model: Path, given: Path) -> str:
    return model.name if model == given else model.relative_to(given.parent).as_posix()


def _told_apart(choices: list[Choice]) -> list[Choice]:
    """Each file once; names that come twice are numbered."""
    once = list({choice.path and choice.path.resolve(): choice for choice in choices}.values())
    names: dict[str, int] = {}
    out = []
    for choice in once:
        count = names[choice.name] = names.get(choice.name, 0) + 1
        out.append(choice if count == 1 else Choice(f"{choice.name} ({count})", choice.path))
    return out
