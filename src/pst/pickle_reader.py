"""Reading PyTorch checkpoints (``.pt``) without executing their pickle."""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pst._unpickle import Record, RefusedError, TensorRecord, decode

_ZIP = b"PK\x03\x04"
_MAX_MODULES = 50_000  # far more than any model has; a pickle can nest one layer in itself


class PickledCheckpoint:
    """A ``.pt`` file, decoded; tensors are read when asked for.

    Args:
        path: A file of ``torch.save`` in the zip format, PyTorch's default since 1.6.
        accept: Called with the module and name of a global that is not known; True makes it a layer's class.

    Attributes:
        path: The file.
        root: What was saved: dicts, lists, numbers, strings, `Record` and `TensorRecord`.
        globals: Every global that the pickle names, e.g. {("torch.nn.modules.conv", "Conv2d"), …}.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, of another format, or names a global that is refused.
    """

    def __init__(self, path: str | Path, accept: Callable[[str, str], bool] = lambda _module, _name: False) -> None:
        self.path = Path(path)
        self._archive = _open(self.path)
        try:
            self.root, self.globals = decode(self._archive.get_record("data.pkl"), accept)
        except RefusedError as error:
            raise ValueError(
                f"{path} is not loaded: its pickle {error}. Unpickling it could run any code: get the weights as "
                f".safetensors, or from a source you trust. Layers of your own are known once their module is imported"
            ) from error
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged, download or save it again: {error}") from error

    def tensor(self, record: TensorRecord) -> Tensor:
        """Read one tensor, on the CPU and contiguous.

        Raises:
            ValueError: The file is damaged.
        """
        (dtype, key, numel), offset, size, stride = record
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or math.prod(size) > numel or (0 not in size and last >= numel):
            raise ValueError(f"{self.path} is damaged: a tensor of shape {size} in a storage of {numel} elements")
        if 0 in size:
            return torch.empty(size, dtype=dtype)
        try:
            data = self._archive.get_record(f"data/{key}")
        except RuntimeError as error:
            raise ValueError(f"{self.path} is damaged, download or save it again: {error}") from error
        if len(data) != numel * dtype.itemsize:
            raise ValueError(f"{self.path} is damaged: storage {key} has {len(data)} bytes, not {numel} × {dtype}")
        return torch.frombuffer(bytearray(data), dtype=dtype).as_strided(size, stride, offset).contiguous()

    def modules(self, root: Record) -> Iterator[tuple[str, Record]]:
        """(prefix, layer) of ``root`` and everything below it, in PyTorch's order.

        Raises:
            ValueError: The tree is malformed.
        """
        stack = [("", root)]
        for _ in range(_MAX_MODULES):
            if not stack:
                return
            prefix, module = stack.pop()
            yield prefix, module
            children = _entries(module, "_modules", Record).items()
            stack.extend((f"{prefix}{name}.", child) for name, child in reversed(children))
        raise ValueError(f"{self.path} holds more than {_MAX_MODULES} layers: a layer seems to hold itself")

    def state_dict(self, root: Record) -> dict[str, Tensor]:
        """Parameters and persistent buffers of the module ``root`` by their usual names, with the stored dtypes.

        Raises:
            ValueError: The tree is malformed.
        """
        state: dict[str, Tensor] = {}
        for prefix, module in self.modules(root):
            transient = module.state.get("_non_persistent_buffers_set", ())
            buffers = _entries(module, "_buffers", TensorRecord)
            tensors = {**_entries(module, "_parameters", TensorRecord), **buffers}
            state.update((prefix + name, self.tensor(t)) for name, t in tensors.items() if name not in transient)
        return state


def _entries(module: Record, attribute: str, kind: type) -> dict[str, Any]:
    """Entries of one of a layer's dicts (``_modules``, …) that are not None, checked."""
    entries = module.state.get(attribute, {})
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise ValueError(f"malformed checkpoint: {attribute} of a {module.name} is no dict with names")
    found = {name: entry for name, entry in entries.items() if entry is not None}
    if not all(isinstance(entry, kind) for entry in found.values()):
        raise ValueError(f"malformed checkpoint: {attribute} of a {module.name} holds no {kind.__name__}")
    return found


def _open(path: Path) -> torch._C.PyTorchFileReader:
    """The archive, opened by the reader that torch.load uses, so that both see the same pickle."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            raise ValueError(
                f"{path} is no checkpoint in PyTorch's zip format: it is damaged, or PyTorch before 1.6 wrote it. "
                f"Download it again, or open it where you trust it and save it with a current PyTorch"
            )
    try:
        with zipfile.ZipFile(path) as listing:
            compressed = any(entry.compress_type for entry in listing.infolist())  # torch.save never does
        archive = torch._C.PyTorchFileReader(str(path))
        names = set(archive.get_all_records())
        order = archive.get_record("byteorder").decode() if "byteorder" in names else sys.byteorder
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"{path} is a damaged zip archive: download or save it again") from error
    if "constants.pkl" in names:
        raise ValueError(f"{path} is a TorchScript archive, no checkpoint: use the .pt file that it was exported from")
    if "data.pkl" not in names or compressed or order != sys.byteorder:
        raise ValueError(f"{path} is no archive that torch.save wrote on a machine of this byte order: save it again")
    return archive
