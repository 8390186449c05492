"""Reading files of ``torch.save`` as data: nothing that they name is imported or called.

PyTorch's own restricted loader does it (``weights_only=True``), under a list of names that is given in full. A class
of the list becomes an inert `Record`, so that no object is ever made of what a file says; whoever wants a model builds
one and fills it with what was read.
"""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pst.io._pickle_scan import RefusedError, scan
from pst.io.files import check_file, first_line

TRUST = "get the weights as .safetensors, or pass --trust (in Python trust=True) if you trust where it is from"
_ZIP = b"PK\x03\x04"
_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that such a file begins with
_MAX_DEPTH, _MAX_PARTS = 32, 300_000  # of plain data; what is shared counts each time
# What PyTorch's loader makes itself.
_TORCH = frozenset({
    "_codecs.encode", "builtins.set", "collections.OrderedDict", "torch.Size", "torch.device",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2",
    *(f"torch.{kind}Storage" for kind in (
        "BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"
    )),
    *(f"torch.{dtype}" for dtype in (
        "bfloat16", "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8"
    )),
})  # fmt: skip
_MARKED = frozenset({"torch.Tensor", "torch._tensor._rebuild_from_type_v2"})  # a tensor with attributes
# Values that become records, see `plain`.
_VALUES = frozenset({
    "numpy.dtype", "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"{module}.{system}Path" for module in ("pathlib", "pathlib._local") for system in ("Posix", "Windows")),
})  # fmt: skip
_ALLOWED = threading.RLock()  # PyTorch keeps its list of allowed names for the whole process


class Record:
    """What stands for an object of a file; a subclass is made for every class that it names.

    Attributes:
        name: Full name of the class, e.g. "torch.nn.modules.conv.Conv2d".
        args: Arguments of the call that made it; empty for a layer.
        state: What the object's ``__dict__`` held.
    """

    name: ClassVar[str]
    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: object) -> Record:
        """Make it with the arguments that the file has for ``__new__`` or ``__init__``."""
        record = object.__new__(cls)
        record.args, record.state = args, {}
        return record

    def __init__(self, *_: object) -> None:  # allows the call
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


def load(path: str | Path, records: Collection[str] = frozenset(), remedy: str = TRUST) -> Any:
    """Read a file of ``torch.save``.

    Args:
        path: In the zip format, PyTorch's default since 1.6.
        records: Full names of the classes that may occur in it and become records.
        remedy: What to do when it is refused, for the message.

    Returns:
        What was saved, of dicts, lists, tuples, sets, numbers, texts, tensors and `Record`. Tensors are views of the
        file: copy what is to outlive it. See `plain` for data that is to be handed on.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is damaged or no such file, or names what is neither in ``records`` nor known.
    """
    path = Path(path)
    with _said(path, remedy):
        names = scan(_read_pickle(path))
        if unknown := sorted(names - _TORCH - _VALUES - frozenset(records)):
            raise RefusedError(f"names {unknown[0]}, which is not a tensor, number, text or layer that pst knows")
        with _only(names - _TORCH):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def check_whole(path: str | Path) -> None:
    """Refuse a damaged file, or one that torch.save did not write, in the words of `load`; nothing is decoded.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is damaged.
    """
    with _said(Path(path), TRUST), suppress(RefusedError):  # what is refused is whole
        scan(_read_pickle(Path(path)))


class _OldFormatError(ValueError):
    """The file is of ``torch.save`` before PyTorch 1.6, or of today's without its zip format."""


@contextmanager
def _said(path: Path, remedy: str) -> Iterator[None]:
    """Say of a file what is wrong with it."""
    try:
        yield
    except _OldFormatError as error:
        raise ValueError(
            f"{path} is in the format of PyTorch before 1.6, which is not read: write it again with "
            'torch.save(torch.load(FILE, map_location="cpu", weights_only=True), NEW); where PyTorch refuses that, the '
            "file holds more than weights: get it anew"
        ) from error
    except RefusedError as error:
        raise ValueError(f"{path} is not loaded: its pickle {first_line(error)}; {remedy}") from error
    except OSError:
        raise
    except Exception as error:  # a malformed pickle fails in as many ways as there is nonsense to write
        raise ValueError(
            f"{path} is damaged or no checkpoint, download or save it again: {first_line(error)}"
        ) from error


def plain(value: Any, *, tensors: bool = False) -> Any:
    """A copy of decoded data of which nothing is shared: dicts, lists, numbers, texts, NumPy's values.

    Sets become lists, and paths text.

    Args:
        value: What `load` returned, or a part of it.
        tensors: Whether there may be tensors, which are copied, and their dtypes.

    Raises:
        ValueError: It holds something else, is nested too deeply, holds itself, or is too much once nothing is shared.
    """
    return _Copy(tensors).of(value, 0)


def copy_tensor(t: Any) -> Tensor:
    """A copy of a decoded tensor.

    Raises:
        ValueError: It is not a plain tensor in memory of its own size: one number can be shown as 10¹² of them.
    """
    if not isinstance(t, Tensor) or t.layout is not torch.strided or t.is_quantized or t.device.type != "cpu":
        raise ValueError(f"expected a tensor, got {type(t).__name__}")
    if t.numel() * t.element_size() > t.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(t.shape)} has only {t.untyped_storage().nbytes()} bytes")
    return t.detach().clone(memory_format=torch.contiguous_format)


class _Copy:
    def __init__(self, tensors: bool) -> None:
        self._tensors, self._parts = tensors, 0

    def of(self, value: Any, depth: int) -> Any:
        self._parts += 1
        if depth > _MAX_DEPTH or self._parts > _MAX_PARTS:
            raise ValueError("data that is nested too deeply, or shared so often that it has no end")
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, dict):
            return {self._key(key): self.of(part, depth + 1) for key, part in dict.items(value)}
        if isinstance(value, (list, tuple, set)):
            parts = [self.of(part, depth + 1) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        if isinstance(value, Tensor) and self._tensors:
            return copy_tensor(value)
        if isinstance(value, torch.dtype) and self._tensors:
            return value
        if isinstance(value, Record) and value.name in _VALUES:
            return _path(value) if value.name.startswith("pathlib.") else _numpy(value)
        raise ValueError(f"a {value.name if isinstance(value, Record) else type(value).__name__} among plain data")

    @staticmethod
    def _key(key: Any) -> Any:
        if key is not None and type(key) not in (bool, int, float, str):
            raise ValueError(f"a key that is a {type(key).__name__}")
        return key


def _path(record: Record) -> str:
    if not all(type(part) is str for part in record.args):
        raise ValueError("a path that is not text")
    return str(Path(*record.args))


def _numpy(record: Record) -> Any:
    """A number or an array of numbers, or ValueError."""
    import numpy as np

    try:
        if record.name.endswith(".scalar"):
            dtype, data = record.args
            return np.frombuffer(data, _dtype(dtype), 1)[0].item()
        _, shape, dtype, fortran, data = record.state
        array = np.frombuffer(data, _dtype(dtype))
        return array.reshape(shape, order="F" if fortran else "C").copy()
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"a {record.name} that holds no numbers") from error


def _dtype(record: Record) -> Any:
    import numpy as np

    code, order = record.args[0], record.state[1]
    if record.name != "numpy.dtype" or not re.fullmatch("[fiub][1248]", code) or order not in "<>|=":
        raise ValueError("no dtype of numbers")
    return np.dtype(order + code)


@contextmanager
def _only(names: Collection[str]) -> Iterator[None]:
    """Let PyTorch's loader know these names alone, as records, and not what else this process has allowed."""
    serialization = torch.serialization
    with _ALLOWED:
        before = serialization.get_safe_globals()
        serialization.clear_safe_globals()
        try:
            stubs = [(type(name, (Record,), {"__slots__": (), "name": name}), name) for name in names]
            with serialization.safe_globals(stubs):  # pyright: ignore[reportArgumentType] pairs, which it takes too
                yield
        finally:
            serialization.add_safe_globals(before)


def check(data: bytes) -> None:
    """Raise ValueError unless this content of a file of ``torch.save`` holds tensors and containers alone."""
    if not data.startswith(_ZIP):
        raise ValueError("a part of it is not in PyTorch's zip format")
    with zipfile.ZipFile(io.BytesIO(data)) as listing:
        _check_entries(listing, len(data))
    if unknown := sorted(scan(_record(torch._C.PyTorchFileReader(io.BytesIO(data)))) - _TORCH - _MARKED):
        raise ValueError(f"its pickle names {unknown[0]}, which is not a tensor or container")


def _read_pickle(path: Path) -> bytes:
    """The pickle in the archive, read by the reader that torch.load uses, so that both see the same."""
    check_file(path, "checkpoint")
    with path.open("rb") as file:
        start = file.read(len(_BEFORE_1_6))
    if start == _BEFORE_1_6:
        raise _OldFormatError
    if not start.startswith(_ZIP):
        raise ValueError("it is not in PyTorch's zip format")
    with zipfile.ZipFile(path) as listing:
        _check_entries(listing, path.stat().st_size)
    return _record(torch._C.PyTorchFileReader(str(path)))


def _check_entries(listing: zipfile.ZipFile, size: int) -> None:
    entries = listing.infolist()  # torch.save never compresses; else 1 kB can hold 1 GB
    if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
        raise ValueError("its archive is compressed, which no file of torch.save is")


def _record(archive: torch._C.PyTorchFileReader) -> bytes:
    names = archive.get_all_records()
    if "constants.pkl" in names:
        raise RefusedError("is that of a TorchScript archive, no checkpoint")
    if "data.pkl" not in names:
        raise ValueError("it is not an archive of torch.save")
    return archive.get_record("data.pkl")
