"""The page in a real browser: a picture is dropped, a slider moved, a position clicked on, a wrong file dropped."""

from __future__ import annotations

import hashlib
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import Browser, browser, missing
from messages import says
from tiny_clips import moving, write_video

LEGACY = Path(__file__).parents[1] / "legacy"
RIGHT = "\ue014"  # WebDriver's name of the right arrow
EVIL = "<img src=x onerror=alert(1)>.png"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def window(address) -> Iterator[Browser]:
    with browser() as opened:
        opened.resize(1280, 1000)
        yield opened


@pytest.fixture
def page(window, address) -> Browser:
    """The page as it is when it is opened, with its first model loaded."""
    window.open(address)
    window.wait(lambda: "Drop an image to begin" in window.text("#status"))
    window.wait(lambda: fusions(window) == ["refine"])  # gate is what this model cannot do
    return window


@pytest.fixture
def file(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / EVIL)
    return tmp_path / EVIL


def fusions(page: Browser) -> list[str]:
    """Those that can be chosen."""
    return page.run("return [...document.querySelectorAll('#fusion label')].map(e => e.innerText.trim())")


def digest(page: Browser, number: int) -> str:
    """Of a picture's pixels, as the browser got them; "" where there is none."""
    source = page.source(f"#picture{number}")
    if not source:
        return ""
    with urllib.request.urlopen(source) as response:
        return hashlib.sha256(response.read()).hexdigest()


def choose(page: Browser, css: str, text: str) -> None:
    page.press(f"{css} input")
    page.wait(lambda: page.find("[role=option]"))
    page.run(
        "for (const e of document.querySelectorAll('[role=option]')) if (e.innerText.includes(arguments[0]))"
        " { e.dispatchEvent(new MouseEvent('mousedown', {bubbles: true})); return }",
        text,
    )


def test_a_picture_a_slider_and_a_click(page, file):
    page.drop("#files", [file])
    page.wait(lambda: "k = 8" in page.text("#caption1"))
    assert "measured here" in page.text("#caption0")
    assert "onerror=alert(1)" in page.text("#status")  # as text
    assert not page.find("img[src=x]")
    assert page.text("#caption2").startswith("8 of 16")
    tokens = digest(page, 2)
    assert tokens
    page.type("#topk input[type=range]", RIGHT * 2)
    page.wait(lambda: page.text("#caption2").startswith("10 of 16"))
    page.wait(lambda: digest(page, 2) != tokens)
    assert not digest(page, 3)
    page.click("#picture1 img", 0.3, 0.4)
    page.wait(lambda: "row" in page.text("#caption3") and digest(page, 3))
    first = digest(page, 3)
    page.click("#picture2 img", 0.9, 0.9)
    page.wait(lambda: digest(page, 3) != first)
    assert not page.find("#status [role=alert]")


def test_settings_of_the_layers(page, file):
    page.drop("#files", [file])
    page.wait(lambda: "k = 8" in page.text("#caption1"))
    before = digest(page, 2)
    choose(page, "#selection", "query")
    page.wait(lambda: "by one block" in page.text("#caption2"))
    page.wait(lambda: digest(page, 2) != before)


def test_a_model_with_other_layers_is_chosen(page, file):
    pytest.importorskip("timm", reason="the trained run's network is one of timm's")
    page.drop("#files", [file])
    page.wait(lambda: "objects" in page.text("#caption1"))
    before = digest(page, 0)
    steps = (
        ("run", "#caption1", "a 0."),
        ("propagation", "#status", "two images"),
        ("yolo.pt", "#caption1", "objects"),
        ("run", "#caption1", "a 0."),
    )
    for model, where, said in steps:
        choose(page, "#model", model)
        page.wait(lambda where=where, said=said: said in page.text(where))
        time.sleep(1)  # the dropdown sends two events, of which the second was refused
        assert not page.find(".toast-body")
        assert not page.find("#picture0 .error, #picture1 .error")
    assert digest(page, 0) not in ("", before)


@pytest.mark.parametrize("name", [EVIL, "page.html", "picture.svg"])
def test_a_wrong_file_is_answered_with_a_sentence(page, tmp_path, name):
    (tmp_path / name).write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    page.drop("#files", [tmp_path / name])
    page.wait(lambda: page.find("#status [role=alert]"))
    said = page.text("#status")
    assert "cannot be decoded" in said
    assert "/" not in said.replace("</", "")
    assert not any(page.source(f"#picture{i}") for i in range(4))
    assert not page.find("img[src=x]")


def test_a_model_that_is_none_is_answered_with_a_sentence_without_its_folder(page):
    choose(page, "#model", "layer.pt")
    page.wait(lambda: page.find("#status [role=alert]"))
    assert re.search(says("layer.pt … model"), page.text("#status"))
    assert str(LEGACY) not in page.run("return document.body.innerText")


def test_labels_are_carried_through_a_video(page, tmp_path):
    choose(page, "#model", "propagation")
    page.wait(lambda: page.find("#kind label"))
    page.drop("#files", [write_video(moving(4), tmp_path / "clip.mp4")])
    page.wait(lambda: "mark" in page.text("#caption2"))
    for caption in ("#caption0", "#caption1"):
        assert "mark it in the first picture" in page.text(caption)
    page.click("#picture2 img", 0.05, 0.1)
    page.wait(lambda: "opposite corner" in page.text("#caption2"))
    page.click("#picture2 img", 0.3, 0.4)
    page.wait(lambda: "1 box" in page.text("#caption2"))
    page.wait(lambda: "a frame" in page.text("#caption1"))
    marks = digest(page, 2)
    page.click("#picture1 img", 0.25, 0.25)
    page.wait(lambda: "8 of" in page.text("#caption2"))
    page.wait(lambda: digest(page, 3) and digest(page, 2) != marks)
    page.press("#clear")
    page.wait(lambda: "click on it" in page.text("#caption2"))


def test_the_browser_asks_this_server_alone(page, file):
    page.drop("#files", [file])
    page.wait(lambda: "k = 8" in page.text("#caption1"))
    asked = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    origin = page.run("return location.origin")
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((origin, "blob:", "data:"))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_cut_off(page, file, width, scheme):
    page.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.resize(width, 900)
    try:
        page.drop("#files", [file])
        page.wait(lambda: "k = 8" in page.text("#caption1"))
        assert page.run("return document.documentElement.scrollWidth") <= width
        for name in ("#model", "#files", "#topk", "#picture0", "#picture3", "#caption0"):
            left, right = page.run(
                "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.left, r.right]", name
            )
            assert 0 <= left < right <= width
    finally:
        page.resize(1280, 1000)
