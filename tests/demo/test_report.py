"""The report from made-up rows; the curves; the pictures' geometry."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pst import Selection
from pst.demo.curves import draw_curves
from pst.demo.pictures import Scene, letterbox
from pst.demo.report import layer_title, render_report
from pst.demo.stages import read_curves, training_seconds
from pst.demo.two_views import Row, TwoViews
from pst.visualize import Panel, selection_panels

COLUMNS = {
    "epoch": [1.0, 2.0],
    "time": [3.0, 7.0],
    **{f"{split}/{name}_loss": [2.0, 1.0] for split in ("train", "val") for name in ("box", "cls", "dfl")},
    "metrics/mAP50(B)": [0.1, 0.6],
    "metrics/mAP50-95(B)": [0.05, 0.4],
}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.new("RGB", (32, 32), (10, 20, 30))


@pytest.fixture(scope="module")
def panels(image) -> list[Panel]:
    record = Selection(torch.tensor([[[0, 3], [1, 2]]]), (2, 2), (4, 4))
    return selection_panels(image, {"model.model.11.blocks.0.attn": [record]})


@pytest.fixture(scope="module")
def views(image) -> TwoViews:
    rows = [Row(name, right, 0.5, image) for name, right in (("k = 0", 0.751), ("k = <8>", 0.9), ("all", 0.91))]
    return TwoViews(image, image, rows)


@pytest.fixture(scope="module")
def rows() -> list:
    from pst.integrations.ultralytics import SweepRow

    return [
        SweepRow(
            fusion=fusion,
            topk=k,
            map50_95=0.1 + k / 1000,
            map50=0.5 + k / 1000,
            latency_ms=20.0 + k,
            peak_memory_mb=900 + k,
            images=3,
        )
        for fusion, k in (("none", 0), ("gate", 4), ("refine", 16))
    ]


@pytest.fixture(scope="module")
def report(image, panels, views, rows) -> str:
    scenes = [Scene(f"<script>{i}</script>.jpg", image, image, panels) for i in range(5)]
    return render_report(
        headline={"mAP50": "0.123"},
        rows=rows,
        curves=draw_curves(COLUMNS),
        scenes=scenes,
        views=views,
        facts={"seed": "42", "data": "a & b"},
    )


@pytest.mark.parametrize(
    "cells",
    [
        ["0", "coarse only", "0.1000", "0.5000", "20.0", "900"],
        ["4", "gate", "0.1040", "0.5040", "24.0", "904"],
        ["16", "refine", "0.1160", "0.5160", "36.0", "916"],
    ],
)
def test_every_row_shows_every_figure(report, cells):
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>.*?</tr>", report, re.DOTALL)]
    assert cells in rows


def test_each_k_of_the_other_view_is_shown(report):
    for text in ("<b>k = 0</b>: 75.1 % of pixels right", "<b>k = &lt;8&gt;</b>: 90.0 %", "<b>all</b>: 91.0 %"):
        assert text in report


def test_headline_and_facts_are_shown_and_escaped(report):
    for text in ("<b>0.123</b><span>mAP50</span>", "<dt>seed</dt><dd>42</dd>", "<dd>a &amp; b</dd>"):
        assert text in report


def test_a_name_with_a_script_in_it_is_shown_and_not_run(report):
    assert report.count("&lt;script&gt;0&lt;/script&gt;.jpg") == 2  # its pictures and its selections
    assert "<script" not in report


def test_a_layer_with_a_script_for_a_name_is_not_run_either(panels, views):
    panel = panels[0]._replace(layer='"><script>alert(1)</script>')
    image = panel.image
    scenes = [Scene("a", image, image, [panel])]
    page = render_report(headline={}, rows=[], curves=(b"", b""), scenes=scenes, views=views, facts={})
    assert "<script" not in page
    assert page.count("&gt;&lt;script&gt;") == 2  # title and alternative text


def test_nothing_is_loaded_from_anywhere(report):
    assert "http" not in re.sub(r"base64,[^\"]+", "", report)
    assert "<script" not in report
    assert "<link" not in report
    assert report.count("<img") == report.count('src="data:image/') == len(re.findall(r"\bsrc=", report))


def test_every_picture_is_embedded_whole(report):
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', report)]
    assert len(pictures) == 2 + 5 * 2 + 3 * 2 + 5  # curves, five pairs, three scenes of two heads, two and three views
    for picture in pictures:
        Image.open(io.BytesIO(picture)).load()


def test_the_words_and_the_lesson_come_first(report):
    lead, _, rest = " ".join(report.split()).partition('<h2 id="views">')
    for text in ("A token is one cell", "inside the k large ones that score highest", "k changes little or nothing"):
        assert text in lead
    assert '<a href="#views">photo pair below</a>' in lead
    assert rest.startswith("What fine attention is for")
    assert '<div class="headline">' in rest


@pytest.mark.parametrize(("best", "says"), [(0.0, True), (0.0004, True), (0.0006, False), (0.5, False)], ids=str)
def test_a_detector_that_learned_nothing_is_called_so(rows, views, best, says):
    zeros = [row._replace(map50_95=0.0, map50=0.0) for row in rows]
    zeros[-1] = zeros[-1]._replace(map50=best)
    page = render_report(headline={}, rows=zeros, curves=(b"", b""), scenes=[], views=views, facts={})
    assert ("This detector learned nothing" in page) is says
    assert page.count("<tr>") == 1 + len(rows)


def test_the_reader_is_warned(report):
    assert "no evidence that one k or" in report.replace("\n", " ")


def test_no_placeholder_is_left(report):
    text = re.sub(r"base64,[^\"]+", "", report)
    assert not re.search(r"\{[{%#]|[%#}]\}", text.partition("</style>")[2])


def test_every_panel_says_what_it_shows(report):
    assert report.count("<b>layer 11, block 0, head 1</b><br>2 of 2×2 coarse tokens, over 4×4 fine ones<") == 3


def test_losses_and_metrics_are_a_picture_each_of_the_size_that_the_page_says():
    losses, metrics = (Image.open(io.BytesIO(picture)) for picture in draw_curves(COLUMNS))
    assert losses.size == metrics.size == (800, 576)
    for picture in (losses, metrics):
        assert (np.asarray(picture.convert("L")) < 128).any()
    assert losses.tobytes() != metrics.tobytes()


def test_a_missing_column_is_named():
    with pytest.raises(KeyError, match="val/cls_loss"):
        draw_curves({name: column for name, column in COLUMNS.items() if name != "val/cls_loss"})


def test_of_a_repeated_epoch_the_latest_line_counts(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text("epoch,time,loss\n1,5,3\n2,9,9\n2,4,2\n3,8,1\n")
    assert read_curves(file) == {"epoch": [1, 2, 3], "time": [5, 4, 8], "loss": [3, 2, 1]}


@pytest.mark.parametrize(("elapsed", "total"), [([], 0), ([5], 5), ([5, 9], 9), ([5, 9, 3, 7], 16), ([5, 4, 8, 2], 15)])
def test_training_time_goes_on_after_a_resume(elapsed, total):
    assert training_seconds(elapsed) == total


def test_letterbox_keeps_boxes_on_their_pixels():
    """A 40×20 picture whose right half is white, in a square of 80: twice as large, 20 pixels of grey above."""
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (20, 0, 40, 20))
    square, ((left, top, right, bottom),) = letterbox(image, [(0.75, 0.5, 0.5, 1.0)], 80)
    assert (left, top, right, bottom) == (40, 20, 80, 60)
    pixels = np.asarray(square)
    assert (pixels[20:60, 42:] == 255).all()
    assert (pixels[20:60, :38] == 0).all()
    assert (pixels[:20] == 114).all()
    assert (pixels[60:] == 114).all()


def test_a_square_picture_is_left_as_it_is():
    image = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    square, boxes = letterbox(image, [], 64)
    np.testing.assert_array_equal(np.asarray(square), np.asarray(image))
    assert boxes == []


def test_layers_have_short_titles():
    assert layer_title("model.model.14.blocks.1.attn") == "layer 14, block 1"
    assert layer_title("neck.fusion") == "neck.fusion"
