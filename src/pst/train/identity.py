"""What a data set is, so that a run that goes on notices when it is another one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pst.data.images import Split
from pst.io.names import listed
from pst.train.tasks.base import Task

_SPLITS = ("train", "val")


def identify(task: Task[Any]) -> dict[str, Any]:
    """Classes, and of both splits the images' names below their common folder, their sizes in bytes, and the labels.

    Where the folder lies plays no part, and no image is read. It is text and tensors, ready for `torch.save`.
    """
    return {"classes": list(task.classes), **{name: _identify(task.split(name)) for name in _SPLITS}}


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed from one identity to another, in words; empty when nothing did.

    Raises:
        KeyError, TypeError, ValueError: ``saved`` is not an identity.
    """
    changes = []
    if list(saved["classes"]) != now["classes"]:
        changes.append(f"the classes were {listed(saved['classes'])} and are {listed(now['classes'])}")
    for name in _SPLITS:
        before, after = saved[name], now[name]
        if torch.equal(before["files"], after["files"]):
            changes += [f"labels of {name} changed"] if before["targets"] != after["targets"] else []
        else:
            changes.append(f"of {name} {_difference(_files(before['files']), _files(after['files']))}")
    return changes


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    groups = {
        "gone": [name for name in before if name not in after],
        "new": [name for name in after if name not in before],
        "of another size": [name for name, size in after.items() if before.get(name, size) != size],
    }
    said = [f"{len(names)} {what} ({listed(names, 2)})" for what, names in groups.items() if names]
    return f"images are: {', '.join(said)}" if said else "the images have another order"


def _identify(split: Split) -> dict[str, Any]:
    root = os.path.commonpath([str(file.parent.absolute()) for file in split.images]) if split.images else ""
    names = (os.path.relpath(file, root).replace(os.sep, "/") for file in split.images)
    lines = b"".join(os.fsencode(f"{name}\0{_size(f)}\0") for name, f in zip(names, split.images, strict=True))
    digest = hashlib.sha256()
    for part in _parts(split.targets):
        digest.update(part)
    return {"files": torch.frombuffer(bytearray(lines or b"\0"), dtype=torch.uint8), "targets": digest.hexdigest()}


def _files(lines: Tensor) -> dict[str, str]:
    """Name -> size in bytes."""
    words = os.fsdecode(bytes(lines.tolist())).split("\0")
    return dict(zip(words[::2], words[1::2], strict=False))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


def _parts(value: Any) -> Iterator[bytes]:
    """The bytes of a target, whatever its task."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.contiguous().numpy().tobytes()
    elif isinstance(value, Path):
        yield os.fsencode(f"{value.name}\0{_size(value)}\0")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield repr(key).encode()
            yield from _parts(inner)
    elif isinstance(value, (list, tuple)):
        yield f"[{len(value)}".encode()
        for inner in value:
            yield from _parts(inner)
    else:
        yield repr(value).encode("utf-8", "surrogatepass")
