"""What PyPI shows: README's links and picture lead somewhere, with the repository's address and without one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ADDRESS = "https://example.org/someone/pst"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def test_links_become_absolute_and_name_the_tag(page):
    text = "![a layer](docs/a.svg) and [how](docs/how.md#so), [there](https://arxiv.org), [above](#top)\n"
    assert links(page.absolute(text, ADDRESS, "v1.2.3")) == [
        f"{ADDRESS}/raw/v1.2.3/docs/a.svg",
        f"{ADDRESS}/blob/v1.2.3/docs/how.md#so",
        "https://arxiv.org",
        "#top",
    ]


def test_code_stays_as_it_is(page):
    code = "```python\nlayers[0](x)\n```\n"
    assert page.absolute(code, ADDRESS, "v1.2.3") == page.absolute(code, "", "v1.2.3") == code


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_no_link_of_the_readme_is_left_relative(address, page):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert any(not link.startswith(("https://", "#")) for link in links(readme))
    shown = page.absolute(readme, address, "v1.2.3")
    assert all(link.startswith(("https://", "#")) for link in links(shown))
    for word in ("CONTRIBUTING.md", "arxiv.org/abs/2505.12772"):
        assert word in shown


def test_the_project_has_links_once_its_address_is_known(page):
    assert page.urls("", "v1.2.3") == {}
    found = page.urls(ADDRESS, "v1.2.3")
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(found)
    for link in found.values():
        path = link.partition("/blob/v1.2.3/")[2]
        assert link.startswith(ADDRESS)
        assert not path or (ROOT / path).is_file()


def test_every_build_fills_in_both(page):
    hook = page.ProjectPage(str(ROOT), {"repository": f"{ADDRESS}/"})
    metadata = {"version": "1.2.3"}
    hook.update(metadata)
    assert metadata["readme"] == {
        "content-type": "text/markdown",
        "text": page.absolute((ROOT / "README.md").read_text(encoding="utf-8"), ADDRESS, "v1.2.3"),
    }
    assert metadata["urls"] == page.urls(ADDRESS, "v1.2.3")
