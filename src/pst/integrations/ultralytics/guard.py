"""Where nothing of a file is executed: inside `protected`, Ultralytics reads checkpoints, caches and YAMLs through us.

`register` wraps the functions of `REPLACED`, and ``torch_load``. Outside of `protected` the wrappers hand on to the
originals, so that Ultralytics without our `YOLO` and our command does what it always did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ultralytics.data import utils as host_data
from ultralytics.engine.exporter import export_formats
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import ROOT, YAML

from pst.io.checkpoints import check_no_folder

_protected: ContextVar[bool] = ContextVar("protected", default=False)
_own: set[Path] = set()  # files that this very training wrote for its processes
_DATASETS = ROOT / "cfg" / "datasets"  # what came with Ultralytics
_TRUST = "pass --trust (in Python trust=True) if you trust where it is from"
# Files that are data, or programs of arithmetic alone. The others can read and write files, or are vendors' own.
_OPENED = re.compile(r".*(\.(pt|safetensors|onnx|tflite|mlpackage|mlmodel|mnn)|_(openvino|ncnn|litert)_model)/?")


@contextmanager
def protected(on: bool = True) -> Iterator[None]:
    """Execute nothing that a file holds, inside the with block and this thread; False: do as Ultralytics does."""
    token = _protected.set(on)
    try:
        yield
    finally:
        _protected.reset(token)


@contextmanager
def told() -> Iterator[None]:
    """Raise what our readers say in place of what the host makes of it."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        cause = error.__cause__
        if isinstance(cause, ValueError) or (isinstance(cause, OSError) and isinstance(error, RuntimeError)):
            raise cause from None
        raise


def is_protected() -> bool:
    """Whether `protected` is in force here."""
    return _protected.get()


def protect_process(state: str | Path) -> None:
    """Protect this process from now on; ``state`` is the file in which its parent handed over what it is to do."""
    _own.add(Path(state))
    _protected.set(True)


def is_own(path: Path) -> bool:
    """Whether this very training wrote the file, for its processes."""
    return path in _own


def load_cache(original: Callable[..., Any], path: Any) -> Any:
    """``load_dataset_cache_file``, which unpickles: here there is no cache, and the host reads the labels again."""
    if not is_protected():
        return original(path)
    raise FileNotFoundError(f"{path} is a pickle, and not read")


def save_cache(original: Callable[..., Any], prefix: str, path: Any, x: dict[str, Any], version: str) -> None:
    """``save_dataset_cache_file``, which pickles: here no file, since it would not be read either."""
    if is_protected():
        x["version"] = version  # as the original does; the host goes on with it
    else:
        original(prefix, path, x, version)


def check_dataset(
    original: Callable[..., Any], dataset: Any, autodownload: bool = True, *args: Any, **kwargs: Any
) -> Any:
    """``check_det_dataset``, which runs a YAML's ``download:``: here only of those that came with Ultralytics."""
    if not is_protected():
        return original(dataset, autodownload, *args, **kwargs)
    file = _local(dataset)
    own = file is not None and _DATASETS in file.resolve().parents
    try:
        return original(dataset, autodownload and own, *args, **kwargs)
    except FileNotFoundError as error:
        if own or file is None or "download" not in YAML.load(str(file)):
            raise
        raise FileNotFoundError(
            f"{' '.join(str(error).split())}; the download: of {file} is not run, since it may be any program: get the "
            f"images yourself, or {_TRUST}"
        ) from error
    except (SyntaxError, TypeError, KeyError, AttributeError) as error:  # what the host makes of a malformed YAML
        raise ValueError(f"{dataset} describes no data set: {' '.join(str(error).split())}") from error


def open_backend(original: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> None:
    """``AutoBackend``, which opens any exported file: here none that is a program in a general language."""
    model = args[0] if args else kwargs.get("model")
    if is_protected() and isinstance(model, (str, Path)) and not _OPENED.fullmatch(str(model)):
        exported = any(suffix in Path(model).name for suffix in export_formats()["Suffix"])
        if not exported and "://" not in str(model):
            check_no_folder(model)
            raise ValueError(
                f"{model} is no model: expected a .pt or .safetensors file of Ultralytics, a model's YAML, or an export"
            )
        raise ValueError(f"{model} is not loaded: such a file can do more than arithmetic; {_TRUST}")
    original(backend, *args, **kwargs)


def _local(dataset: Any) -> Path | None:
    """The YAML file that a name stands for, if it is one of this machine."""
    from ultralytics.utils.checks import check_file

    names = [str(dataset) + suffix for suffix in ("", ".yaml", ".yml")]
    if "://" in names[0] or Path(names[0]).suffix not in ("", ".yaml", ".yml"):
        return None
    found = (check_file(name, download=False, hard=False) for name in names)
    return next((Path(str(file)) for file in found if isinstance(file, (str, Path)) and Path(file).is_file()), None)


# Where a function is at home, its name, the parameters that it begins with, and ours. Every module of Ultralytics that
# has imported one by name gets ours too.
REPLACED: tuple[tuple[Any, str, tuple[str, ...], Callable[..., Any]], ...] = (
    (host_data, "load_dataset_cache_file", ("path",), load_cache),
    (host_data, "save_dataset_cache_file", ("prefix", "path", "x", "version"), save_cache),
    (host_data, "check_det_dataset", ("dataset", "autodownload"), check_dataset),
    (AutoBackend, "__init__", ("self", "model"), open_backend),
)
