"""Imports run one way, and importing the package loads nothing but torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import pst

ROOT = Path(pst.__file__).parent
LAB = Path(__file__).parents[1] / "lab"

# A part may import the parts of earlier rows and itself, nothing else; so those of one row never import one another.
LAYERS = (
    ("_moved", "functional"),
    ("modules",),
    ("control",),
    ("",),  # the public names, in pst/__init__.py
    ("io", "profile"),
    ("export", "backbones"),
    ("integrations.*", "visualize", "data"),
    ("train", "propagate"),
    ("demo", "explore"),
    ("cli",),
    ("__main__",),
)
CORE = ("functional", "modules", "control", "")
TRITON_FILES = ("pst/functional/_triton.py", "pst/functional/_triton_kernels.py")
MAY_IMPORT_ULTRALYTICS = ("integrations.ultralytics",)


class Import(NamedTuple):
    """One imported name: where it stands, and whether only a call of a function imports it."""

    file: str
    line: int
    name: str
    lazy: bool

    @property
    def part(self) -> str:
        return part(self.file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}"


def part(module: str) -> str:
    """Which part of the package a module of it belongs to: "pst.modules.conv" -> "modules"."""
    names = module.split(".")[1:]
    return ".".join(names[: 2 if names[:1] == ["integrations"] else 1])


def layer(name: str) -> int:
    """Its row in `LAYERS`."""
    rows = [
        i
        for i, row in enumerate(LAYERS)
        if name in row or (name.startswith("integrations") and "integrations.*" in row)
    ]
    assert len(rows) == 1, f"{name!r} is not in LAYERS: add it to the row that it belongs to"
    return rows[0]


def is_module(name: str) -> bool:
    paths = [base / name.replace(".", "/") for base in (ROOT.parent, LAB.parent)]
    return any(path.with_suffix(".py").exists() or (path / "__init__.py").exists() for path in paths)


def imported_names(node: ast.AST, package: str) -> list[str]:
    """Full names that one node imports; `from pst import x` is pst.x if that is a module, else pst."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*above, *([] if module is None else [module])])
            names = [alias.name for alias in names]
            return [f"{base}.{name}" if is_module(f"{base}.{name}") else f"{base}:{name}" for name in names]
        case ast.Call(func=ast.Name(id="import_module" | "__import__"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
    return []


def imports_of(path: Path, root: Path | None = None) -> Iterator[Import]:
    base = (ROOT if root is None else root).parent
    file = path.relative_to(base).as_posix()
    package = ".".join(path.relative_to(base).parent.parts)

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for name in imported_names(node, package):
            yield Import(file, getattr(node, "lineno", 0), name, lazy)
        type_checking = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or type_checking
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), lazy=False)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(found for path in sorted(ROOT.rglob("*.py")) for found in imports_of(path))


def imported_files(*roots: Path) -> dict[str, set[str]]:
    """Each module of packages -> the modules of them that it imports, in functions and for type checkers too."""
    paths = {path: root for root in roots for path in sorted(root.rglob("*.py"))}
    modules = {path: module_name(path, root) for path, root in paths.items()}
    known = set(modules.values())
    graph: dict[str, set[str]] = {}
    for path, root in paths.items():
        names = (found.name.partition(":")[0] for found in imports_of(path, root))
        graph[modules[path]] = {name for name in names if name in known} - {modules[path]}
    return graph


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, the first found; none is []."""
    done: set[str] = set()

    def walk(module: str, above: list[str]) -> list[str]:
        if module in above:
            return [*above[above.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph[module]):
            if found := walk(target, [*above, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def own() -> list[Import]:
    """Imports of the package's own modules; its version may be read by all."""
    names = [i for i in all_imports() if i.name.partition(":")[0].partition(".")[0] == "pst"]
    return [i for i in names if i.name != "pst:__version__"]


def test_imports_run_one_way():
    assert len(own()) > 20
    wrong = []
    for found in own():
        source, target = found.part, part(found.name.partition(":")[0])
        if source != target and layer(target) >= layer(source):
            wrong.append(f"{found} (from {source or 'pst'} to {target or 'pst'})")
    assert not wrong, "\n".join(wrong)


def test_no_file_imports_another_in_a_circle():
    graph = imported_files(ROOT, LAB)
    assert len(graph) > 100
    assert not circle(graph), " -> ".join(circle(graph))


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_package_does_not_import_the_laboratory():
    assert not [str(i) for i in all_imports() if i.name.partition(":")[0].partition(".")[0] == "lab"]


def test_the_core_looks_for_no_attribute_of_a_host():
    words = ("predictor", "ultralytics", "timm", "torchvision", "safetensors")
    for folder in ("functional", "modules", "control"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            code = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)]
            assert not [node.attr for node in code if node.attr in words], path


def test_every_part_has_a_layer():
    for entry in ROOT.iterdir():
        if entry.suffix == ".py" or (entry / "__init__.py").exists():
            layer(part(f"pst.{entry.stem}") if entry.stem != "__init__" else "")


def test_the_walk_sees_every_kind_of_import(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path / "pst")
    for name in ("pst/__init__.py", "pst/modules/__init__.py", "pst/modules/conv.py", "pst/cli/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pst/modules/a.py").write_text(
        "import pst.cli as c\n"
        "from pst import cli, PST\n"
        "from . import conv\n"
        "from ..cli import main\n"
        "from .conv import ConvNormAct\n"
        "if TYPE_CHECKING:\n    import timm\n"
        "def f():\n    import ultralytics.nn\n    importlib.import_module('pst.cli')\n"
    )
    found = [(i.name, i.lazy) for i in imports_of(tmp_path / "pst/modules/a.py")]
    assert found == [
        ("pst.cli", False),
        ("pst.cli", False),
        ("pst:PST", False),
        ("pst.modules.conv", False),
        ("pst.cli:main", False),
        ("pst.modules.conv:ConvNormAct", False),
        ("timm", True),
        ("ultralytics.nn", True),
        ("pst.cli", True),
    ]


def test_ultralytics_is_imported_by_its_adapter_alone():
    uses = [i for i in all_imports() if i.name.replace(":", ".").partition(".")[0] == "ultralytics"]
    assert uses
    assert not [str(found) for found in uses if found.part not in MAY_IMPORT_ULTRALYTICS]


def test_the_core_needs_torch_alone():
    for found in all_imports():
        library = found.name.replace(":", ".").partition(".")[0]
        if found.part in CORE and library not in sys.stdlib_module_names:
            kernels = library == "triton" and found.file in TRITON_FILES
            types = library == "typing_extensions" and found.lazy  # for type checkers; comes with torch
            assert kernels or types or library in ("torch", "pst"), str(found)


def test_triton_is_imported_where_it_is_wanted():
    names = {f.removesuffix(".py").replace("/", ".") for f in TRITON_FILES}
    uses = [i for i in all_imports() if i.name.partition(":")[0] in names and i.file not in TRITON_FILES]
    assert uses
    assert all(found.lazy for found in uses), uses


@pytest.mark.parametrize(
    "statement",
    [
        "import pst",
        "import pst; [getattr(pst, name) for name in pst.__all__]",
        "import pst.functional, pst.modules, pst.control, pst.io.checkpoints, pst.integrations",
    ],
)
def test_a_fresh_interpreter_loads_no_host_library(statement):
    hosts = {"timm", "torchvision", "ultralytics", "onnx", "PIL", "matplotlib", "sklearn", "safetensors"}
    code = f"import sys; {statement}; print(*sorted({hosts} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("integrations.ultralytics", "ultralytics", "ultralytics"),
        ("integrations.timm", "timm", "timm"),
        ("integrations.torchvision", "torchvision", "torchvision"),
        ("integrations.segmentation", "huggingface_hub", "timm"),
        ("propagate", "numpy", "propagate"),
        ("train", "accelerate", "train"),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_installs_it(package, module, extra):
    code = f"import sys; sys.modules[{module!r}] = None; import pst.{package}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    remedy = f"pip install 'pyramid-sparse-transformer[{extra}]'"
    assert f"ImportError: pst.{package} needs {module}, which is not installed: {remedy}" in done.stderr


def test_a_backbone_says_which_library_it_lacks():
    code = "import sys; sys.modules['timm'] = None; from pst.backbones import build_body; build_body('resnet18')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    said = (
        "ImportError: a backbone of timm needs timm, which is not installed: pip install 'pyramid-sparse-transformer["
    )
    assert said in done.stderr
