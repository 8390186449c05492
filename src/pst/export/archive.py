"""What a ``.pt2`` file may hold: ``torch.export.load`` unpickles parts of it, and evaluates others as Python."""

from __future__ import annotations

import ast
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from pst.io.files import first_line
from pst.io.safe_load import check

# Names of the archive's records, of PyTorch's present layout and of that before 2.8. Everything else, as code compiled
# for a GPU, is refused.
_PICKLES = re.compile(
    r"data/(sample_inputs|weights|constants)/model\.pt|serialized_(state_dict|constants|example_inputs)\.pt"
)
_PROGRAM = re.compile(r"models/model\.json|serialized_exported_program\.json")
_PAYLOADS = re.compile(r"data/(weights|constants)/model_\w+_config\.json")
_DATA = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|(extra|extra_files)/[\w.-]+|archive_format|archive_version|"
    r"byteorder|version|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
)
# Operators of PyTorch's own arithmetic; one of them maps a file.
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file|_?save)\w+\.\w+|torch\.sym_\w+|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)|"
    r"math\.(ceil|floor|trunc|sqrt)"
)
_NAME = re.compile(r"(\w+(\.\w+)*)?")
_NAMES = frozenset({
    "name", "as_name", "as_string", "type", "parameter_name", "buffer_name", "tensor_constant_name", "fqn",
    "forward_arg_names", "verifiers", "user_input_name", "as_float",
})  # fmt: skip
_COMMENTS = frozenset({"metadata", "torch_version", "dialect"})  # where an operator came from; never evaluated
_EXPRESSIONS = frozenset({"expr_str", "guards_code"})
_NODES = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.Load),
    *(ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)
_FUNCTIONS = frozenset({
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "floor", "ceiling", "Abs",
    "Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "Eq", "Ne", "Ge", "Gt",
    "Le", "Lt", "And", "Or", "Not", "FloorDiv", "ModularIndexing", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt",
    "CeilDiv", "TruncToInt", "TruncToFloat", "RoundToInt", "ToFloat", "IntTrueDiv", "FloatTrueDiv", "FloatPow",
    "PowByNatural", "Where", "size", "stride", "storage_offset", "sym_max", "sym_min", "sym_float", "sym_int", "ceil",
    "trunc",
})  # fmt: skip
_WORDS = frozenset({"L", "torch", "math", "true", "false", "oo"})
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)


def check_program(path: Path) -> None:
    """Raise ValueError if loading a ``.pt2`` file, or running it, could do more than PyTorch's arithmetic."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = _records(archive, path)
            for name, entry in records.items():
                _check_record(name, archive, entry)
    except ValueError as error:
        raise ValueError(
            f"{path} is not loaded: {first_line(error)}; pass trust=True if you trust where it is from"
        ) from error
    except Exception as error:  # a damaged archive or malformed JSON
        raise ValueError(f"{path} is damaged, export it again: {type(error).__name__}: {first_line(error)}") from error


def _records(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Entries by name without the folder that PyTorch's archives have, checked to be what any reader finds."""
    entries = archive.infolist()
    if sum(e.file_size for e in entries) > path.stat().st_size or len({e.filename for e in entries}) != len(entries):
        raise ValueError("its archive is compressed or names a record twice, which PyTorch's are not and do not")
    names = [e.filename for e in entries]
    folder = "" if "version" in names else f"{names[0].partition('/')[0]}/"
    if not all(name.startswith(folder) for name in names):
        raise ValueError("its archive has several folders")
    return {e.filename.removeprefix(folder): e for e in entries}


def _check_record(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    if _PICKLES.fullmatch(name):
        check(archive.read(entry))
    elif _PROGRAM.fullmatch(name):
        _check_json(json.loads(archive.read(entry)), "")
    elif _PAYLOADS.fullmatch(name):
        for payload in json.loads(archive.read(entry))["config"].values():
            if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
                raise ValueError(f"{name} has a pickle among its numbers")
    elif not _DATA.fullmatch(name):
        raise ValueError(f"it holds {name!r}, which no program of pst has")


def _check_json(value: Any, key: str) -> None:
    """Check all texts of a program; ``key`` says what they are."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"it has the name {name!r}")
            if name not in _COMMENTS:
                _check_json(part, name)
    elif isinstance(value, list):
        for part in value:
            _check_json(part, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(text: str, key: str) -> None:
    if key in _EXPRESSIONS:
        _check_expression(text)
    elif key in ("in_spec", "out_spec"):
        if text:
            _check_tree(json.loads(text)[1])
    elif not (_TARGET if key == "target" else _NAME).fullmatch(text.removeprefix("-")) or key not in (
        *_NAMES,
        "target",
    ):
        raise ValueError(f"its program has {text!r} as {key}")


def _check_expression(text: str) -> None:
    """Sizes are written as Python: let numbers, symbols and functions of them be in it, nothing else."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        known = isinstance(node, _NODES)
        if isinstance(node, ast.Call):
            known = isinstance(node.func, (ast.Name, ast.Attribute))
            function = getattr(node.func, "id", getattr(node.func, "attr", None))
            known = known and function in _FUNCTIONS
        elif isinstance(node, ast.Name):
            known = node.id in _FUNCTIONS | _WORDS or re.fullmatch(r"[suz]\d+", node.id) is not None
        elif isinstance(node, ast.Attribute):
            known = node.attr in _FUNCTIONS
        elif isinstance(node, ast.Constant):
            known = not isinstance(node.value, str) or _NAME.fullmatch(node.value) is not None
        if not known:
            raise ValueError(f"its program has {text!r} as a size")


def _check_tree(tree: Any) -> None:
    """The nesting of inputs or outputs."""
    context = json.loads(tree["context"]) if isinstance(tree["context"], str) else tree["context"]
    keys = [] if context is None else context
    if tree["type"] not in _TREES or not all(isinstance(key, str) and _NAME.fullmatch(key) for key in keys):
        raise ValueError(f"its inputs or outputs are nested in {tree['type']!r}")
    for child in tree["children_spec"]:
        _check_tree(child)
