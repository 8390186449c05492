"""Decoding a checkpoint's pickle as data: nothing that it names is imported or called.

A pickle is a program that names functions and classes, its "globals", and calls them. Here a global becomes an inert
`Record` that collects arguments and state, or, for tensors and containers, the plain thing. A global that no
checkpoint needs is refused by name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch

_DTYPES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}
# Where layers live: what these name is a class, made without arguments and filled with state.
_CLASSES = re.compile(
    r"(torch\.nn\.modules(\.\w+)?|ultralytics\.nn\.(modules(\.\w+)?|tasks|distill_model|text_model)|"
    r"ultralytics\.utils\.(loss|tal)|torchvision\.(models|ops|transforms)(\.\w+)*|"
    r"pst\.(modules|integrations\.ultralytics)\.\w+)\.\w*[A-Z]\w*"  # a class has an upper-case letter, a function none
)
# Values that are made by a call. With the classes, what PyTorch's and Ultralytics' own restricted loaders know.
_VALUES = re.compile(
    r"(numpy\.dtype|numpy\._?core\.multiarray\.scalar|_codecs\.encode|builtins\.(bytearray|complex)|collections\.Counter|"
    r"pathlib(\._local)?\.(Posix|Windows)Path|torch\.(Size|device|u?int\d+|b?float\d+|bool|complex\d+)|"
    r"torchvision\.transforms\.functional\.InterpolationMode|ultralytics(\.yolo)?\.utils\.IterableSimpleNamespace)"
)
# What torch.save writes (protocol 2); protocol 4's way of naming globals, among others, is not in it.
_OPCODES = re.compile(
    r"APPENDS?|BIN(FLOAT|GET|INT[12]?|PERSID|PUT|UNICODE)|BUILD|EMPTY_(DICT|LIST|TUPLE)|GLOBAL|LONG(1|_BINGET|_BINPUT)|"
    r"MARK|NEW(FALSE|OBJ|TRUE)|NONE|PROTO|REDUCE|SETITEMS?|STOP|TUPLE[123]?"
)


class RefusedError(Exception):
    """The pickle does what no checkpoint of weights needs; the message is a predicate: "names posix.system"."""


class Record:
    """What stands for an object of the pickle; a subclass is made for every class that it names.

    Attributes:
        name: Full name of the class, e.g. "torch.nn.modules.conv.Conv2d".
        args: Arguments of the call that made it; empty for a layer.
        state: What the object's ``__dict__`` held; for a layer always a dict.
    """

    name: ClassVar[str]
    __slots__ = ("args", "state")

    def __new__(cls, *args: object) -> Record:
        """Make it as pickle does, without ``__init__``."""
        if args:
            raise RefusedError(f"makes {cls.name} with arguments")
        return _new(cls, ())

    def __init__(self, *_: object) -> None:
        raise RefusedError(f"calls {self.name}")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise RefusedError(f"gives {self.name} a state that is a {type(state).__name__}, no dict")
        self.state = state


class Value(Record):
    """Record of a harmless value that is made by a call, e.g. a path or a NumPy scalar."""

    __slots__ = ()

    def __new__(cls, *args: object) -> Record:
        """Keep the arguments of the call."""
        return _new(cls, args)

    def __init__(self, *_: object) -> None:  # allows the call
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Storage(NamedTuple):
    """A block of numbers in the archive."""

    dtype: torch.dtype
    key: str
    numel: int


class TensorRecord(NamedTuple):
    """A view of a `Storage`; offset and strides in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def decode(
    data: bytes, accept: Callable[[str, str], bool] = lambda _module, _name: False
) -> tuple[Any, frozenset[tuple[str, str]]]:
    """Decode a pickle that ``torch.save`` wrote.

    Args:
        data: The pickle.
        accept: Called with the module and name of a global that is not known; True makes it a layer's class.

    Returns:
        What was saved, of dicts, lists, tuples, sets, numbers, strings, `Record` and `TensorRecord`; and every global
        that the pickle names, as (module, name).

    Raises:
        RefusedError: The pickle names or does what no checkpoint needs.
        ValueError: It is malformed.
    """
    try:
        _check_opcodes(data)
        decoder = _Decoder(data, accept)
        return decoder.load(), frozenset(decoder.names)
    except RefusedError:
        raise
    except Exception as error:  # a malformed pickle fails in as many ways as there is nonsense to write
        raise ValueError(f"malformed pickle: {error}") from error


class _Decoder(pickle.Unpickler):
    """Replaces the two ways out of a pickle, globals and storages, by inert things."""

    def __init__(self, data: bytes, accept: Callable[[str, str], bool]) -> None:
        super().__init__(io.BytesIO(data))
        self._accept = accept
        self._made: dict[str, Any] = {}
        self.names: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str, /) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as protocol 2 spells it
        self.names.add((module, name))
        full = f"{module}.{name}"
        if full not in self._made:
            self._made[full] = self._make(module, name, full)
        return self._made[full]

    def _make(self, module: str, name: str, full: str) -> Any:
        if full in _FUNCTIONS:
            return _Function(_FUNCTIONS[full])
        if full in _DTYPES or _VALUES.fullmatch(full):
            return type(full, (Value,), {"__slots__": (), "name": full})
        if _CLASSES.fullmatch(full) or self._accept(module, name):
            return type(full, (Record,), {"__slots__": (), "name": full})
        raise RefusedError(f"names {full}, which is no tensor, container or known layer")

    def persistent_load(self, pid: Any, /) -> Storage:
        tag, kind, key, _, numel = pid
        if tag != "storage" or kind.name not in _DTYPES or type(key) is not str or type(numel) is not int:
            raise RefusedError(f"has a storage of an unknown kind, {pid!r}")
        return Storage(_DTYPES[kind.name], key, numel)


class _Function:
    """A function of the pickle that is known, replaced by one of ours."""

    __slots__ = ("_replacement",)

    def __init__(self, replacement: Callable[..., Any]) -> None:
        self._replacement = replacement

    def __call__(self, *args: Any) -> Any:
        return self._replacement(*args)

    def __setstate__(self, state: object) -> NoReturn:
        raise RefusedError("sets attributes of a function")


class _OrderedDict(dict[Any, Any]):
    """A dict; the attributes that PyTorch hangs on its state dicts are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> TensorRecord:
    """``torch._utils._rebuild_tensor_v2``."""
    size, stride = tuple(size), tuple(stride)
    integers = all(type(n) is int for n in (offset, *size, *stride))
    if not isinstance(storage, Storage) or not integers or len(size) != len(stride):
        raise RefusedError("describes a tensor that cannot be")
    return TensorRecord(storage, offset, size, stride)


def _parameter(data: Any, *_: object) -> TensorRecord:
    """``torch._utils._rebuild_parameter``."""
    if not isinstance(data, TensorRecord):
        raise RefusedError(f"makes a parameter of a {type(data).__name__}")
    return data


def _getattr(owner: Any, name: Any) -> Record:
    """``getattr`` for a layer's class or an enum, or a layer's ``forward``: published checkpoints hold such."""
    if isinstance(owner, type):
        known = not issubclass(owner, Value) or owner.name.endswith(".InterpolationMode")
    else:
        known = isinstance(owner, Record) and name in ("forward", "forward_fuse")
    if not known or not isinstance(name, str) or name.startswith("_"):
        raise RefusedError(f"names builtins.getattr, for {name!r}")
    return _new(Value, (owner, name))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "builtins.getattr": _getattr,
    "builtins.set": set,
    "collections.OrderedDict": _OrderedDict,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
}


def _new(cls: type[Record], args: tuple[object, ...]) -> Record:
    record = object.__new__(cls)
    record.args, record.state = args, {}
    return record


def _check_opcodes(data: bytes) -> None:
    """Refuse opcodes that torch.save does not write, and a memo index that the decoder would allocate memory up to."""
    for opcode, arg, _ in pickletools.genops(data):
        if not _OPCODES.fullmatch(opcode.name):
            raise RefusedError(f"has the opcode {opcode.name}, which torch.save does not write")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and (arg is None or arg > len(data)):
            raise RefusedError(f"counts {arg} objects in {len(data)} bytes")
