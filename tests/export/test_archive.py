"""A .pt2 file runs no pickle and no Python of whoever wrote it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from checkpoint_files import Call
from pst.export import load, to_pt2

OLD = torch.__version__ < "2.9"  # writes weights as a pickle, and no guards
INPUTS = (torch.arange(192.0).reshape(1, 3, 8, 8),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    return to_pt2(nn.Conv2d(3, 2, 1), (torch.rand(2, 3, 8, 8),), path, dynamic=True)


def changed(good: Path, path: Path, part: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy with the record whose name ends with ``part`` changed."""
    found = 0
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith(part):
                data, found = change(data), found + 1
            target.writestr(entry.filename, data)
    assert found == 1
    return path


def torch_saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_an_unchanged_copy_is_run(good: Path, tmp_path: Path) -> None:
    copy = changed(good, tmp_path / "c.pt2", "model.json", lambda data: data)
    assert torch.equal(load(copy)(*INPUTS), load(good)(*INPUTS))


@pytest.mark.parametrize("evil", ["system", "legacy"])
def test_a_pickle_of_sample_inputs_is_not_run(evil: str, good: Path, tmp_path: Path) -> None:
    target = tmp_path / "written"
    data = torch_saved(Call(os.mkdir, str(target)))
    if evil == "legacy":  # torch.load takes a bare pickle for a file of PyTorch before 1.6
        data = b"\x80\x02cposix\nmkdir\n(X" + len(str(target)).to_bytes(4, "little") + str(target).encode() + b"tR."
    bad = changed(good, tmp_path / "bad.pt2", "sample_inputs/model.pt", lambda _: data)
    with pytest.raises(ValueError, match=r"bad\.pt2 is not loaded: .* trust=True"):
        load(bad)
    assert not target.exists()


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode(), 1)

    return change


def with_text(key: str, value: str) -> Callable[[bytes], bytes]:
    """Sets the first text below a key of the program."""

    def change(data: bytes) -> bytes:
        program = json.loads(data)
        stack = [program]
        while stack:
            part = stack.pop()
            if isinstance(part, dict) and isinstance(part.get(key), (str, list)):
                part[key] = value if isinstance(part[key], str) else [value]
                return json.dumps(program).encode()
            stack += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
        raise AssertionError(key)

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expr_str", "__import__('os').mkdir('written')"),
        ("expr_str", "Symbol.__class__.__mro__"),
        ("expr_str", "Symbol('s0').func(open('written', 'w'))"),
        ("expr_str", "[x for x in ()]"),
        ("expr_str", "(lambda: 0)()"),
        ("guards_code", "__import__('os').mkdir('written')"),
        ("guards_code", "torch.os.mkdir('written')"),
        ("guards_code", "L['a'].size().__class__"),
        ("target", "torch.os.system"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "torch.hub.load"),
        ("target", "_operator.methodcaller"),
        ("target", "#x"),
        ("name", 'x"); import os; os.mkdir("written'),
        ("fqn", "a\nimport os"),
        ("in_spec", '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'),
    ],
)
def test_python_in_the_program_is_not_evaluated(
    key: str, value: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == "guards_code" and OLD:
        pytest.skip(f"PyTorch {torch.__version__} writes no guards")
    monkeypatch.chdir(tmp_path)
    bad = changed(good, tmp_path / "bad.pt2", "models/model.json", with_text(key, value))
    with pytest.raises(ValueError, match=r"bad\.pt2 is (not loaded|damaged)"):
        load(bad)
    assert not (tmp_path / "written").exists()


@pytest.mark.skipif(not OLD, reason="this PyTorch writes weights as numbers")
def test_a_pickle_of_weights_is_not_run(good: Path, tmp_path: Path) -> None:
    data = torch_saved(Call(os.mkdir, str(tmp_path / "written")))
    with pytest.raises(ValueError, match=r"bad\.pt2 is not loaded: .* trust=True"):
        load(changed(good, tmp_path / "bad.pt2", "data/weights/model.pt", lambda _: data))
    assert not (tmp_path / "written").exists()


@pytest.mark.skipif(OLD, reason="this PyTorch writes weights as a pickle")
def test_a_pickle_among_the_numbers_is_refused(good: Path, tmp_path: Path) -> None:
    bad = changed(
        good, tmp_path / "p.pt2", "weights_config.json", replaced('"use_pickle": false', '"use_pickle": true')
    )
    with pytest.raises(ValueError, match="has a pickle among its numbers"):
        load(bad)
    bad = changed(good, tmp_path / "o.pt2", "weights_config.json", replaced('"weight_0"', '"opaque_obj_0"'))
    with pytest.raises(ValueError, match="has a pickle among its numbers"):
        load(bad)


def test_other_records_are_refused(good: Path, tmp_path: Path) -> None:
    for name in ("data/aotinductor/model/x.so", "data/constants/opaque_obj_0", "serialized_exported_program.py"):
        bad = tmp_path / "n.pt2"
        bad.write_bytes(good.read_bytes())
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", b"")
        with pytest.raises(ValueError, match=r"n\.pt2 is not loaded: it holds"):
            load(bad)
    (tmp_path / "half.pt2").write_bytes(good.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"half\.pt2 is damaged"):
        load(tmp_path / "half.pt2")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_run_by_trust_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.torchscript"
    traced: Any = torch.jit.trace(nn.Identity(), torch.ones(1))
    traced.save(str(path))
    with pytest.raises(ValueError, match=r"a\.torchscript is not loaded: .* trust=True"):
        load(path)
    assert torch.equal(load(path, trust=True)(torch.ones(2)), torch.ones(2))
