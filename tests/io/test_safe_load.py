"""Reading a file of torch.save as data: the same values as torch.load, and nothing that the pickle names is run."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from checkpoint_files import Call, save, write_archive
from pickles import BUILD, EMPTY, NEWOBJ, REDUCE, mapping, program, shared_lists, shared_tuples, text, use
from pst.io.safe_load import Record, copy_tensor, load, plain

SYSTEM = f"{os.system.__module__}.system"  # posix or nt
CONV = "torch.nn.modules.conv.Conv2d"
A_CONV = use("torch.nn.modules.conv", "Conv2d") + EMPTY + NEWOBJ
BOUND_S = 20.0  # a bomb takes for ever, the rest milliseconds


def write(path: Path, *parts: bytes, **records: bytes) -> Path:
    return write_archive(path / "a.pt", program(*parts), **records)


# ------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8, torch.bool])
def test_tensors_and_their_views_are_read_as_torch_reads_them(dtype: torch.dtype, tmp_path: Path) -> None:
    base = torch.arange(-60, 60).reshape(4, 5, 6).to(dtype)
    views = [base, base[2], base[:, 1:4, ::2], base.permute(2, 0, 1), base[0, 0, 0], base[:0]]
    read = [copy_tensor(t) for t in load(save(views, tmp_path / "t.pt"))]
    assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(read, views, strict=True))
    read[0].zero_()  # its own memory
    assert torch.equal(read[1], base[2])


def test_plain_data_is_read_as_it_was(tmp_path: Path) -> None:
    saved = {"a": [1, 2.5, None, True, "ü"], 3: (4, {"b": b"\xff\x00"}), "t": torch.ones(2), -1: {"c"}}
    read = plain(load(save(saved, tmp_path / "t.pt")), tensors=True)
    assert torch.equal(read.pop("t"), torch.ones(2))
    assert read == {"a": [1, 2.5, None, True, "ü"], 3: (4, {"b": b"\xff\x00"}), -1: ["c"]}


def test_numpy_values_and_paths_are_read_without_numpy_making_them(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    saved = [np.float64(0.25), np.int64(7), array, array.T.copy(), np.asfortranarray(array), Path("a") / "b"]
    read = plain(load(save(saved, tmp_path / "t.pt")))
    assert read[:2] == [0.25, 7]
    assert [type(value) for value in read[:2]] == [float, int]
    assert all(np.array_equal(a, b) for a, b in zip(read[2:5], saved[2:5], strict=True))
    assert read[5] == str(Path("a") / "b")
    with pytest.raises(ValueError, match="that holds no numbers"):
        plain(load(save(np.array([{}], dtype=object), tmp_path / "o.pt")))


def test_a_layer_is_a_record_of_its_attributes(tmp_path: Path) -> None:
    layer = nn.Conv2d(2, 3, 1)
    record = load(save(layer, tmp_path / "t.pt"), {CONV})
    assert isinstance(record, Record)
    assert (record.name, record.state["out_channels"]) == (CONV, 3)
    assert torch.equal(record.state["_parameters"]["weight"], layer.weight)


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "function",
    [os.system, subprocess.Popen, exec, eval, getattr, setattr, open, builtins.__import__, torch.load, torch.hub.load,
     torch.jit.load, pickle.loads, sys.exit, nn.Conv2d, threading.Thread],
)  # fmt: skip
def test_what_is_not_in_the_list_is_refused_by_name(function: Any, tmp_path: Path) -> None:
    target = tmp_path / "written"
    with pytest.raises(ValueError, match=rf"bad\.pt is not loaded: its pickle names .*{function.__name__}.* --trust"):
        load(save(Call(function, str(target), "w"), tmp_path / "bad.pt"))
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["torch.os.system", "torch.nn.modules.os.system", "numpy.os.system", "pathlib.os.system"]
)
def test_a_name_that_reaches_through_an_allowed_module_is_refused(name: str, tmp_path: Path) -> None:
    module, _, function = name.rpartition(".")
    for lines in ((module, function), (module.partition(".")[0], name.partition(".")[2])):
        with pytest.raises(ValueError, match="which is not a tensor"):
            load(write(tmp_path, use(*lines), b"(", text("true"), b"t", REDUCE), {CONV})


def test_what_the_process_allowed_before_is_not_allowed_here(tmp_path: Path) -> None:
    target = tmp_path / "written"
    before = torch.serialization.get_safe_globals()
    allowed = [os.mkdir, (os.mkdir, "torch.device"), (os.mkdir, CONV), Call]
    with torch.serialization.safe_globals(allowed):
        with pytest.raises(ValueError, match=r"names \w+\.mkdir"):
            load(save(Call(os.mkdir, str(target)), tmp_path / "a.pt"))
        call = use("torch.nn.modules.conv", "Conv2d") + b"(" + text(str(target)) + b"t" + REDUCE
        assert isinstance(load(write(tmp_path, call), {CONV}), Record)
        assert set(allowed) <= set(torch.serialization.get_safe_globals())  # and it is the process's again
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert not target.exists()


def test_states_and_second_states_stay_inside_the_record(tmp_path: Path) -> None:
    state = mapping(__class__=text("x"), name=text("y"), __setstate__=use("builtins", "set"))
    record = load(write(tmp_path, A_CONV, state, BUILD, mapping(forward=text("z")), BUILD), {CONV})
    assert (type(record).__name__, record.name, record.state) == (CONV, CONV, {"forward": "z"})
    assert not hasattr(record, "__dict__")
    dictionary = use("collections", "OrderedDict") + EMPTY + REDUCE + mapping(items=A_CONV, keys=A_CONV) + BUILD
    assert plain(load(write(tmp_path, dictionary), {CONV})) == {}


def test_getattr_of_published_checkpoints_gets_nothing(tmp_path: Path) -> None:
    pickled = use("__builtin__", "getattr") + b"(" + A_CONV + text("__init__") + b"t" + REDUCE
    record = load(write(tmp_path, pickled), {CONV, "builtins.getattr"})
    assert (record.name, record.args[1]) == ("builtins.getattr", "__init__")
    with pytest.raises(ValueError, match="damaged"):  # and cannot be called
        load(write(tmp_path, pickled, EMPTY, REDUCE), {CONV, "builtins.getattr"})


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layers_of_mine.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    pickled = use("layers_of_mine", "Layer") + EMPTY + NEWOBJ
    assert load(write(tmp_path, pickled), {"layers_of_mine.Layer"}).name == "layers_of_mine.Layer"
    assert "layers_of_mine" not in sys.modules


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((b"\x80\x04N",), "has protocol 4"),
        ((text("os"), text("system"), b"\x93"), "has the opcode STACK_GLOBAL"),
        ((b"(ios\nsystem\n",), "has the opcode INST"),
        ((b"\x82\x01",), "has the opcode EXT1"),
        ((use("_codecs", "encode"), text("a" * 99), text("punycode"), b"\x86", REDUCE), "encodes a text"),
        ((b"\x8a\x0a" + b"\x01" * 10,), "more than 64 bits"),
    ],
)
def test_other_programs_are_refused(parts: tuple[bytes, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        load(write(tmp_path, *parts))


# ------------------------------------------------------------------------------------------- bombs and damaged files


def test_a_tuple_that_never_ends_to_hash_is_refused_before_it_is_hashed(tmp_path: Path) -> None:
    began = time.monotonic()
    for parts in (
        (b"}", shared_tuples(60), b"Ns"),
        (use("builtins", "set"), b"](", shared_tuples(60), b"e\x85", REDUCE),
    ):
        with pytest.raises(ValueError, match="holds a tuple of more than 256 parts"):
            load(write(tmp_path, *parts))
    assert time.monotonic() - began < BOUND_S


@pytest.mark.parametrize(
    "bomb",
    [shared_lists(60), b"]q\x00h\x00a", b"}q\x00K\x01h\x00s", b"]" * 200 + b"a" * 199],
    ids=["shared", "itself", "dict", "deep"],
)
def test_data_that_never_ends_is_a_value_error(bomb: bytes, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match="nested too deeply, or shared so often"):
        plain(load(write(tmp_path, bomb)))
    assert time.monotonic() - began < BOUND_S


def tensor_program(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """One float32 tensor on storage "0"."""
    long = [b"\x8a\x08" + struct.pack("<q", n) for n in (numel, offset)]
    shape, strides = (b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in t) + b"t" for t in (size, stride))
    storage = b"(" + text("storage") + use("torch", "FloatStorage") + text("0") + text("cpu") + long[0] + b"tQ"
    hooks = use("collections", "OrderedDict") + EMPTY + REDUCE
    return (
        use("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + long[1] + shape + strides + b"\x89" + hooks + b"tR"
    )


@pytest.mark.parametrize(
    ("numel", "offset", "size", "stride"),
    [
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, -1, (2,), (1,)),
        (4, 3, (2,), (-1,)),
        (4, 0, (-2, -2), (1, 1)),
        (4, 0, (10**12,), (0,)),  # would be four terabytes
        (1 << 40, 0, (1 << 40,), (1,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    path = write(tmp_path, tensor_program(numel, offset, size, stride), **{"data/0": bytes(16)})
    with pytest.raises(ValueError, match=r"damaged|has only \d+ bytes"):
        copy_tensor(load(path))


def test_files_of_other_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load(tmp_path / "missing.pt")
    for name, content in (("text.pt", b"hello"), ("empty.pt", b""), ("half.pt", b"PK\x03\x04 and no more")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program(b"N"))
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(ValueError, match=r"bomb\.pt is damaged.* compressed"):
        load(tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", program(b"N"))
        archive.writestr("script/constants.pkl", program(b"N"))
        archive.writestr("script/version", b"3\n")
    with pytest.raises(ValueError, match=r"script\.pt is not loaded: its pickle is that of a TorchScript"):
        load(tmp_path / "script.pt")


@pytest.mark.parametrize("pickled", [b"", b"h\x07", b"R", b"K\x01Q", b"}]Ns", b"X\xff\xff\xff\xff", b"(((", b"\x85"])
def test_malformed_pickles_are_told(pickled: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.pt is damaged"):
        load(write(tmp_path, pickled))
