"""Every snippet in the documents runs, every link leads somewhere, and the documents agree with the package."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

import pst
from lab.__main__ import build_parser as lab_parser
from links import LINK, unlinked
from pst.cli import _split as split
from pst.cli import build_parser
from pst.control import attention_layers

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/index.md", "docs/reproduce.md",
             "docs/evidence.md", "docs/speed.md", "docs/faq.md", "docs/gallery.md", "docs/method.md")  # fmt: skip
LINKED = (*DOCUMENTS, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
MOST_LINES, MOST_WORDS = 3, 20  # of a paragraph, of a cell
WORDS_PER_MINUTE = 250  # that are read
README = (ROOT / "README.md").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
_, _, extras = PYPROJECT.partition("[project.optional-dependencies]")
EXTRAS = set(re.findall(r"^(\w+) = \[", extras.partition("\n[")[0], re.MULTILINE))
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def snippets(document: str, language: str) -> list[str]:
    return [code for kind, code in SNIPPET.findall((ROOT / document).read_text()) if kind == language]


def commands() -> list[str]:
    """Of every page; a launcher's own arguments end at ``-m``."""
    blocks = [code for document in sorted(set(LINKED)) for code in snippets(document, "bash")]
    joined = [re.sub(r"\\\n *", "", code) for code in blocks]
    lines = [line for code in joined for line in code.splitlines() if line and not line.startswith("#")]
    return sorted({re.sub(r"^(torchrun|accelerate) .* -m ", "", line.partition(" #")[0].strip()) for line in lines})


def python_of(document: str, host: bool) -> list[str]:
    """Its Python snippets: those that train with Ultralytics, or all the others."""
    return [code for code in snippets(document, "python") if ("integrations.ultralytics" in code) == host]


def test_every_snippet_is_of_a_kind_that_is_tested():
    kinds = {kind for document in DOCUMENTS for kind, _ in SNIPPET.findall((ROOT / document).read_text())}
    assert kinds <= {"python", "bash", "yaml"}
    assert all(any(python_of("README.md", host)) for host in (False, True))


@pytest.mark.parametrize("code", [code for document in DOCUMENTS for code in python_of(document, host=False)])
def test_example_does_what_its_comments_say(code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    for printed in capsys.readouterr().out.splitlines():
        assert f"# {printed}" in code
    for name, shape in re.findall(r"^ *(\w+) = .*#.*(\([\d, ]+\))$", code, re.MULTILINE):
        assert str(tuple(names[name].shape)) == shape
    for name, module in names.items():
        if isinstance(module, nn.Module):
            assert attention_layers(module), f"{name} shows no PST layer"


@pytest.fixture
def boxes(tmp_path):
    """Folder with a data.yaml and four images of a bright square each, used for training and validation."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(4):
        image = Image.new("RGB", (64, 64), (40, 40, 40))
        image.paste((220, 220, 220), (8 * i, 16, 8 * i + 32, 48))
        image.save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").write_text(f"0 {(8 * i + 16) / 64} 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [square]\n")
    return tmp_path


def test_ultralytics_example(boxes):
    (code,) = python_of("README.md", host=True)
    code = re.sub(r"epochs=\d+", "epochs=1", code)
    code = re.sub(r"imgsz=\d+", "imgsz=64, workers=0, plots=False", code)
    # Ultralytics' own default is the checkout around it, or its package when pytest is near: here, neither
    code = f"import ultralytics\nultralytics.settings.update({{'runs_dir': {str(boxes / 'runs')!r}}})\n{code}"
    code += "print('MAP', model.val(plots=False, workers=0).box.map)\n"
    code += "from pst.control import attention_layers\n"
    code += "print('K', {layer.topk for layer in attention_layers(model.model).values()})\n"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env |= {"YOLO_CONFIG_DIR": str(boxes / "config"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=boxes, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stderr
    (k,) = re.findall(r"set_topk\(model, (\d+)\)", code)
    assert f"K {{{k}}}" in result.stdout
    assert 0 <= float(result.stdout.rpartition("MAP ")[2].split()[0]) <= 1
    assert (boxes / "runs/detect/train/weights/best.pt").is_file()  # where the README's `pst val` looks for it


@pytest.mark.parametrize("command", commands())
def test_command_exists(command):
    program, *args = shlex.split(command)
    if program == "make":
        assert {arg for arg in args if "=" not in arg} <= TARGETS
    elif program == "pst":
        own, settings = split(args)  # Ultralytics parses what follows yolo, the trainer's own test what follows train
        assert callable(build_parser().parse_args(own).run)
        assert not settings or args[0] in ("yolo", "train")
    elif program == "pip":
        assert args[0] == "install"
        for name, extras in re.findall(r"(pyramid-sparse-transformer|\.)(?:\[(.*)\])?$", args[1]):
            assert name == "." or f'name = "{name}"' in PYPROJECT
            assert set(filter(None, extras.split(","))) <= EXTRAS
    elif args[:2] == ["-m", "lab"]:
        assert callable(lab_parser().parse_args(args[2:]).run)
    else:
        pytest.fail(f"no test for {command!r}")


@pytest.mark.parametrize("document", sorted(set(LINKED)))
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / document).read_text())
    assert [t for t in targets if not t.startswith("https://") and not leads_somewhere(ROOT / document, t)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether the file is there, and the heading that follows a #, as GitHub and MkDocs name it."""
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    if not path.exists() or not anchor:
        return path.exists()
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", ["README.md", "docs/evidence.md"])
def test_a_figure_stands_on_the_page_that_its_row_links(document):
    lines = re.findall(r"^\| (.*\d.*\]\(.*) \|$", (ROOT / document).read_text(), re.MULTILINE)
    rows = [(unlinked(line), {found[2] for found in LINK.finditer(line)}) for line in lines]
    rows = [(row, *pages) for row, pages in rows if pages.isdisjoint({"docs/frozen.md", "frozen.md"})]  # test_prose.py
    assert len(rows) >= 7
    for row, page in rows:
        figures = row.split(" | ")[1 if document == "README.md" else 2 :]  # after the words
        text = ((ROOT / document).parent / page).read_text().replace("-", "−").replace("≥ ", "")
        for cell in figures:
            words = re.sub(r"95 %|50-95|k = 0| 1 s", "", cell)
            numbers = [n.rstrip(".,") for n in re.findall(r"−?\d[\d.,]*", words)]
            missing = absent(numbers, text)
            if document == "docs/evidence.md":  # A over B, where the page may have B over A
                missing = min(missing, absent([n[1:] if n[0] == "−" else f"−{n}" for n in numbers], text), key=len)
            assert not missing, f"{row}: {page} has no {missing}"


def absent(numbers: list[str], text: str) -> list[str]:
    return [n for n in numbers if not re.search(rf"(?<![\d.,−]){re.escape(n)}(?!\.?\d)", text)]


def test_the_readme_is_read_in_a_minute():
    text = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    blocks = [block.splitlines() for block in re.split(r"\n{2,}", text)]
    long = [lines[0] for lines in blocks if len(lines) > MOST_LINES and lines[0][:1] not in "|-!*"]
    cells = [cell for line in text.splitlines() if line.startswith("|") for cell in line.split("|")]
    assert long == []
    assert [cell for cell in cells if len(cell.split()) > MOST_WORDS] == []
    assert all(len(code.splitlines()) <= 8 for code in snippets("README.md", "python"))


def test_the_evidence_is_read_in_three_minutes():
    text = unlinked((ROOT / "docs/evidence.md").read_text())
    words = [word for word in re.split(r"[\s|]+", text) if re.search(r"\w", word)]
    assert len(words) <= 3 * WORDS_PER_MINUTE


@pytest.mark.parametrize("host", ["models", "timm", "torchvision", "segmentation", "train"])
def test_each_host_page_leads_from_start_to_limits(host):
    headings = re.findall(r"^## (.+)$", (ROOT / f"docs/{host}.md").read_text(), re.MULTILINE)
    way = ["Start", "Train", "Evaluate", "Export", "Limits"]
    assert [heading for heading in headings if heading in way] == way


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_paths_named_in_text_exist(document):
    named = re.findall(r"`((?:src|tests|lab|docs)/[^`*{ ]+)`", (ROOT / document).read_text())
    assert named or document != "CONTRIBUTING.md"
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_citation_names_this_version_and_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == pst.__version__
    titles = " ".join(reference["title"] for reference in citation["references"])
    assert "Pyramid Sparse Transformer" in titles
    assert "P2HCT" in titles


def test_make_lists_every_target():
    listed = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines()} == TARGETS
