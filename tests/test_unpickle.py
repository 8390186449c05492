"""Reading a checkpoint as data: the same tensors as ``torch.load``, and nothing that the pickle names is run."""

from __future__ import annotations

import builtins
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from checkpoint_files import Call, save, write_archive
from pst import pickle_reader
from pst._unpickle import Record, RefusedError, TensorRecord, Value, decode
from pst.pickle_reader import PickledCheckpoint


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def use(*lines: str) -> bytes:
    """GLOBAL."""
    return f"c{lines[0]}\n{lines[1]}\n".encode()


def program(*parts: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + b"".join(parts) + b"."


SYSTEM = os.system.__module__  # posix or nt
CONV = use("torch.nn.modules.conv", "Conv2d")
EMPTY = b")"
NEWOBJ, REDUCE, BUILD = b"\x81", b"R", b"b"

# ------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
     torch.int64, torch.bool],
)  # fmt: skip
def test_every_dtype_is_read_as_torch_reads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(-6, 6).reshape(3, 4).to(dtype)
    checkpoint = PickledCheckpoint(save({"t": tensor}, tmp_path / "t.pt"))
    read = checkpoint.tensor(checkpoint.root["t"])
    assert read.dtype == dtype
    assert torch.equal(read, tensor)


def test_views_of_one_storage_are_read_by_their_offset_and_strides(tmp_path: Path) -> None:
    base = torch.randn(4, 5, 6)
    views = [base, base[2], base[:, 1:4, ::2], base.permute(2, 0, 1), base[0, 0, 0], base[:0], base[3, 4, 5:]]
    checkpoint = PickledCheckpoint(save(views, tmp_path / "t.pt"))
    read = [checkpoint.tensor(record) for record in checkpoint.root]
    assert all(torch.equal(a, b) for a, b in zip(read, views, strict=True))
    assert all(t.is_contiguous() for t in read)
    read[0].zero_()  # its own memory
    assert torch.equal(checkpoint.tensor(checkpoint.root[1]), base[2])


def test_state_dict_is_that_of_the_pickled_module(tmp_path: Path) -> None:
    inner = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.SiLU())
    model = nn.Sequential(inner, nn.ModuleList([nn.Linear(3, 4), inner]), nn.BatchNorm1d(4, affine=False))
    model[0].register_buffer("kept", torch.randn(2))
    model[0].register_buffer("transient", torch.randn(2), persistent=False)
    model[0].register_parameter("none", None)
    model[2].half()
    checkpoint = PickledCheckpoint(save({"model": model}, tmp_path / "t.pt"))
    state = checkpoint.state_dict(checkpoint.root["model"])
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[k], t) and state[k].dtype == t.dtype for k, t in model.state_dict().items())


def test_everything_else_is_read_as_plain_values_and_records(tmp_path: Path) -> None:
    plain = {"a": [1, 2.5, None, True, "ü", (3,), {"b": -(10**12)}], "set": {1, 2}}
    state = nn.Linear(2, 2).state_dict()
    saved = {"plain": plain, "layer": nn.GELU("tanh"), "state": state}
    checkpoint = PickledCheckpoint(save(saved, tmp_path / "t.pt"))
    assert checkpoint.root["plain"] == plain
    layer = checkpoint.root["layer"]
    assert (layer.name, layer.args, layer.state["approximate"]) == ("torch.nn.modules.activation.GELU", (), "tanh")
    assert isinstance(checkpoint.root["state"]["weight"], TensorRecord)
    assert ("torch.nn.modules.activation", "GELU") in checkpoint.globals


def test_values_of_published_checkpoints_are_kept_as_records(tmp_path: Path) -> None:
    saved = [np.float64(0.5), np.dtype("f4"), Path("a/b"), torch.device("cpu"), torch.Size([1, 2]), torch.float16]
    root = PickledCheckpoint(save(saved, tmp_path / "t.pt")).root
    assert all(isinstance(r, Value) or (isinstance(r, type) and issubclass(r, Value)) for r in root)
    assert root[2].args == ("a", "b")


def test_getattr_is_known_for_layers_and_enums_alone() -> None:
    getattr_ = use("__builtin__", "getattr")
    for owner, name in (
        (CONV, "forward"),
        (CONV + EMPTY + NEWOBJ, "forward"),
        (use("torchvision.transforms.functional", "InterpolationMode"), "BILINEAR"),
    ):
        root, _ = decode(program(getattr_, owner, text(name), b"\x86", REDUCE))
        assert isinstance(root, Value)
        assert root.args[1] == name
    for owner, name in (
        (CONV, "__init__"),
        (CONV, "_version"),
        (CONV + EMPTY + NEWOBJ, "register_forward_hook"),
        (use("pathlib", "PosixPath"), "write_text"),
        (use("torch._utils", "_rebuild_tensor_v2"), "func_globals"),
        (text("text"), "format"),
    ):
        with pytest.raises(RefusedError, match=r"names builtins\.getattr"):
            decode(program(getattr_, owner, text(name), b"\x86", REDUCE))


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("module", [SYSTEM, "os"])
def test_malicious_checkpoint_is_malicious_and_is_not_run(module: str, tmp_path: Path) -> None:
    target = tmp_path / "written"
    command = f'"{sys.executable}" -c "open({str(target)!r}, \'w\')"'
    path = write_archive(tmp_path / "bad.pt", program(use(module, "system"), text(command), b"\x85", REDUCE))
    with pytest.raises(ValueError, match=rf"bad.pt is not loaded: its pickle names {module}.system"):
        PickledCheckpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # what any other reader does with it
    assert target.exists()


@pytest.mark.parametrize(
    "function",
    [os.system, subprocess.Popen, exec, eval, builtins.__import__, setattr, open, torch.load, torch.hub.load,
     torch.jit.load, pickle.loads, pathlib.Path.write_text, sys.exit],
    ids=lambda f: f.__qualname__,
)  # fmt: skip
@pytest.mark.parametrize("place", ["first", "deep"])
def test_other_globals_are_refused_wherever_they_stand(function: Any, place: str, tmp_path: Path) -> None:
    call: Any = Call(function, "x")
    content = call if place == "first" else {"model": nn.Sequential(nn.Linear(1, 1)), "x": [{"y": (1, call)}]}
    path = save(content, tmp_path / "bad.pt")
    with pytest.raises(
        ValueError, match=r"bad\.pt is not loaded: its pickle names .* get the weights as \.safetensors"
    ):
        PickledCheckpoint(path)


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (program(use("ultralytics.nn.tasks", "torch_load")), "names ultralytics.nn.tasks.torch_load"),
        (program(use("ultralytics.nn.tasks", "torch.load")), "names ultralytics.nn.tasks.torch.load"),
        (program(use("torch.nn.modules.conv", "F.conv2d")), "names torch.nn.modules.conv.F.conv2d"),
        (program(use("torch.hub", "Load")), "names torch.hub.Load"),
        (program(CONV, EMPTY, REDUCE), "calls torch.nn.modules.conv.Conv2d"),
        (program(CONV, b"K\x03\x85", NEWOBJ), "makes torch.nn.modules.conv.Conv2d with arguments"),
        (program(CONV, EMPTY, NEWOBJ, b"N}", text("__class__"), b"Ns\x86", BUILD), "a state that is a tuple, no dict"),
        (program(use("torch._utils", "_rebuild_tensor_v2"), b"}", BUILD), "sets attributes of a function"),
        (program(use("torch._utils", "_rebuild_parameter"), b"K\x01\x85", REDUCE), "makes a parameter of a int"),
        (program(use("torch._utils", "_rebuild_tensor_v2"), b"(K\x01K\x00))t", REDUCE), "a tensor that cannot be"),
        (program(b"(", text("storage"), CONV, text("0"), text("cpu"), b"K\x01tQ"), "a storage of an unknown kind"),
        (b"\x80\x04" + text(SYSTEM) + text("system") + b"\x93.", "has the opcode STACK_GLOBAL"),
        (program(b"i" + SYSTEM.encode() + b"\nsystem\n"), "has the opcode INST"),
        (program(b"\x82\x01"), "has the opcode EXT1"),
        (program(b"Nr\xff\xff\xff\x7f"), "counts 2147483647 objects in "),
    ],
)  # fmt: skip
def test_refusals_name_the_reason(pickled: bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        decode(pickled)


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"not a pickle",
        program(b"X\xff\xff\xff\xff"),
        program(b"h\x07"),
        program(CONV, b"}", text("x"), b"Ns", BUILD),  # state for a class, not an object
        program(use("torch._utils", "_rebuild_tensor_v2"), EMPTY, REDUCE),
        program(b"K\x01Q"),
        program(text("text"), EMPTY, REDUCE),
        program(use("collections", "OrderedDict"), EMPTY, REDUCE, b"]ss"),
    ],
)
def test_malformed_pickles_are_value_errors(pickled: bytes) -> None:
    with pytest.raises(ValueError, match="malformed pickle"):
        decode(pickled)


def test_no_state_reaches_anything_but_the_record_itself() -> None:
    state = b"}(" + text("__class__") + text("x") + text("name") + text("y") + b"u"
    record, _ = decode(program(CONV, EMPTY, NEWOBJ, state, BUILD))
    assert isinstance(record, Record)
    assert (record.name, record.state) == ("torch.nn.modules.conv.Conv2d", {"__class__": "x", "name": "y"})
    assert not hasattr(record, "__dict__")
    fresh, _ = decode(program(CONV, EMPTY, NEWOBJ))
    assert fresh.state == {}


@pytest.mark.parametrize("accept", [True, False])
def test_nothing_is_imported(accept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layers_of_mine.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    pickled = program(use("layers_of_mine", "Layer"), EMPTY, NEWOBJ)
    if accept:
        record, names = decode(pickled, lambda module, name: (module, name) == ("layers_of_mine", "Layer"))
        assert (record.name, names) == ("layers_of_mine.Layer", {("layers_of_mine", "Layer")})
    else:
        with pytest.raises(RefusedError, match=r"names layers_of_mine\.Layer, which is no tensor"):
            decode(pickled)
    assert "layers_of_mine" not in sys.modules


# ----------------------------------------------------------------------------------------------- damaged files


def tensor_program(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """One float32 tensor on storage "0"."""
    long = [b"\x8a\x08" + struct.pack("<q", n) for n in (numel, offset)]
    shape, strides = (b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in t) + b"t" for t in (size, stride))
    storage = b"(" + text("storage") + use("torch", "FloatStorage") + text("0") + text("cpu") + long[0] + b"tQ"
    hooks = use("collections", "OrderedDict") + EMPTY + REDUCE
    return program(
        use("torch._utils", "_rebuild_tensor_v2"), b"(", storage, long[1], shape, strides, b"\x89", hooks, b"t", REDUCE
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
        (8, 0, (8,), (1,)),  # the archive has four numbers
        (-4, 0, (), ()),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    path = write_archive(tmp_path / "t.pt", tensor_program(numel, offset, size, stride), **{"data/0": bytes(16)})
    checkpoint = PickledCheckpoint(path)
    with pytest.raises(ValueError, match=r"t\.pt is damaged"):
        checkpoint.tensor(checkpoint.root)


def test_hand_written_tensor_that_fits_is_read(tmp_path: Path) -> None:
    numbers = struct.pack("<4f", 1, 2, 3, 4)
    path = write_archive(tmp_path / "t.pt", tensor_program(4, 1, (3,), (1,)), **{"data/0": numbers})
    checkpoint = PickledCheckpoint(path)
    assert checkpoint.tensor(checkpoint.root).tolist() == [2, 3, 4]


def test_storage_that_the_archive_lacks(tmp_path: Path) -> None:
    checkpoint = PickledCheckpoint(write_archive(tmp_path / "t.pt", tensor_program(4, 0, (4,), (1,))))
    with pytest.raises(ValueError, match=r"t\.pt is damaged, download or save it again"):
        checkpoint.tensor(checkpoint.root)


@pytest.mark.parametrize("entries", ["none", "wrong key", "wrong kind"])
def test_malformed_modules_are_refused(entries: str, tmp_path: Path) -> None:
    children = {"none": b"K\x01", "wrong key": b"}K\x01Ns", "wrong kind": b"}" + text("a") + b"K\x01s"}[entries]
    pickled = program(CONV, EMPTY, NEWOBJ, b"}", text("_modules"), children, b"s", BUILD)
    checkpoint = PickledCheckpoint(write_archive(tmp_path / "t.pt", pickled))
    with pytest.raises(ValueError, match=r"malformed checkpoint: _modules of a torch\.nn\.modules\.conv\.Conv2d"):
        checkpoint.state_dict(checkpoint.root)


def test_module_that_holds_itself_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "_MAX_MODULES", 100)
    module = CONV + EMPTY + NEWOBJ + b"q\x00"
    pickled = program(module, b"}", text("_modules"), b"}", text("a"), b"h\x00s", b"s", BUILD)
    checkpoint = PickledCheckpoint(write_archive(tmp_path / "t.pt", pickled))
    with pytest.raises(ValueError, match="more than 100 layers: a layer seems to hold itself"):
        checkpoint.state_dict(checkpoint.root)


def test_files_of_other_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        PickledCheckpoint(tmp_path / "missing.pt")
    legacy = tmp_path / "legacy.pt"
    torch.save({"a": torch.ones(1)}, legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"legacy\.pt is no checkpoint in PyTorch's zip format"):
        PickledCheckpoint(legacy)
    whole = save({"a": torch.ones(100)}, tmp_path / "whole.pt")
    (tmp_path / "part.pt").write_bytes(whole.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"part\.pt is a damaged zip archive"):
        PickledCheckpoint(tmp_path / "part.pt")
    for records in ({"byteorder": b"big" if sys.byteorder == "little" else b"little"}, {"constants.pkl": b""}):
        with pytest.raises(ValueError, match=r"of this byte order|is a TorchScript archive"):
            PickledCheckpoint(write_archive(tmp_path / "other.pt", program(b"}"), **records))
    with zipfile.ZipFile(tmp_path / "zip.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program(b"}"))
        archive.writestr("archive/version", b"3\n")
    with pytest.raises(ValueError, match=r"zip\.pt is no archive that torch\.save wrote"):
        PickledCheckpoint(tmp_path / "zip.pt")
    with pytest.raises(ValueError, match=r"bad\.pt is damaged, download or save it again: malformed pickle"):
        PickledCheckpoint(write_archive(tmp_path / "bad.pt", b"\x80\x02"))
