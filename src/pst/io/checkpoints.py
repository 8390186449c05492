"""State dicts: the authors' names and ours, and safetensors files. Nothing here executes a pickle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from torch import Tensor

from pst.io.files import check_file, check_parent, replacing
from pst.io.versions import pip

Renames = tuple[tuple[re.Pattern[str], str], ...]

# beginnings of the names in one PST layer: ours, the authors'; {} stands for a number
_NAMES = (
    ("reduce.", "cv1."),
    ("reduce_upper.", "cvup."),
    ("project.", "cv2."),
    ("blocks.{}.attn.gate.", "attnlayer_{}.attn.gate_conv1d."),
    ("blocks.{}.", "attnlayer_{}."),
)


def _pattern(old: str, new: str) -> tuple[re.Pattern[str], str]:
    return re.compile(re.escape(old).replace(r"\{\}", r"(\d+)")), new.replace("{}", r"\1")


_RENAMES: Renames = tuple(_pattern(ours, theirs) for ours, theirs in _NAMES)
_RENAMES_BACK: Renames = tuple(_pattern(theirs, ours) for ours, theirs in _NAMES)


def from_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the PST layers of an authors' state dict to ours; every other key stays as it is.

    The gate's weight goes from Conv1d's (d, 2d, 1) to Linear's (d, 2d). A state dict of ours is returned unchanged.

    Args:
        state_dict: Of a PST layer or of a whole model (docs/method.md, "Names in state dicts").

    Returns:
        A new dict, in the same order; tensors are shared, not copied.
    """
    return _rename(state_dict, "cvup.", _RENAMES_BACK, lambda gate: gate.reshape(gate.shape[0], -1))


def to_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_authors`."""
    return _rename(state_dict, "reduce_upper.", _RENAMES, lambda gate: gate.reshape(*gate.shape[:2], 1))


def save_safetensors(state_dict: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write ``state_dict`` to a safetensors file, atomically: ``path`` is the old file or the whole new one.

    Raises:
        FileNotFoundError: The folder does not exist.
        ImportError: safetensors is not installed.
    """
    _import_safetensors()
    from safetensors.torch import save_file

    with replacing(check_parent(path)) as part:
        part.touch()
        mode = part.stat().st_mode  # safetensors itself leaves a file that only its owner can read
        save_file({k: v.detach().contiguous().clone() for k, v in state_dict.items()}, part, dict(metadata))
        part.chmod(mode)


def load_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: (state dict on the CPU, metadata).

    Raises:
        FileNotFoundError: No such file.
        ImportError: safetensors is not installed.
        PermissionError: It may not be read.
        ValueError: It is not a safetensors file.
    """
    _import_safetensors()
    from safetensors import SafetensorError, safe_open

    # opened here, since safetensors calls a file that may not be read a missing one
    check_file(path, "safetensors file").open("rb").close()
    try:
        with safe_open(str(path), framework="pt") as f:
            metadata = f.metadata()
            return {name: f.get_tensor(name) for name in f.keys()}, {} if metadata is None else metadata  # noqa: SIM118
    except SafetensorError as error:
        again = "if it should be one, it is damaged: download or save it again"
        if Path(path).suffix != ".safetensors":
            again = "give a .safetensors file, such as the best.safetensors of a run of pst train"
        raise ValueError(f"{path} is not a safetensors file: {again}") from error


def of_pst_train(path: str | Path) -> str:
    """What is said of a run of `pst train`, or of its weights, where a checkpoint of Ultralytics is wanted."""
    return (
        f"{path} is of pst train, not of Ultralytics: pst val and pst predict take it, and it is exported from Python, "
        'with pst.export, see "Export" in docs/train.md'
    )


def check_no_folder(path: str | Path) -> None:
    """Raise ValueError for a folder where a checkpoint of Ultralytics is wanted; it says what the folder is."""
    path, best = Path(path), best_of(path)
    if (path / "best.safetensors").is_file() and best is None:
        raise ValueError(of_pst_train(path))
    if path.is_dir():
        instead = "" if best is None else f": give {best}"
        raise ValueError(f"{path} is a folder: expected a .pt or .safetensors file of Ultralytics{instead}")


def best_of(folder: str | Path) -> Path | None:
    """The checkpoint that a run of Ultralytics ended with; None where a folder is no such run."""
    places = (Path(folder) / "weights" / "best.pt", Path(folder) / "best.pt")
    return next((place for place in places if place.is_file()), None)


def _rename(
    state_dict: Mapping[str, Tensor], marker: str, renames: Renames, reshape_gate: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Apply ``renames`` below every prefix that has a ``marker`` entry."""
    markers = (re.search(rf"(?:^|\.)({re.escape(marker)})", key) for key in state_dict)
    prefixes = {match.string[: match.start(1)] for match in markers if match}
    out: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        prefix = next((p for p in prefixes if key.startswith(p)), None)
        name = key if prefix is None else prefix + _apply(key[len(prefix) :], renames)
        is_gate = name != key and re.search(r"\.attn\.gate(_conv1d)?\.weight$", name) is not None
        out[name] = reshape_gate(tensor) if is_gate else tensor
    return out


def _apply(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        if pattern.match(key):
            return pattern.sub(replacement, key, count=1)
    return key


def _import_safetensors() -> None:
    try:
        import_module("safetensors")
    except ImportError as error:
        raise ImportError(f"reading and writing checkpoints needs safetensors: {pip()} install safetensors") from error
