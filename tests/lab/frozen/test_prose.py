"""What the pages say in words of the pretrained network is what its results give.

The sentences are those of `frozen_claims`. An interval that stands in none of them fails a test too.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import cache
from typing import Any

import pytest
import torch

from frozen_claims import BOUND, FIRST, FOLDER, PAGES, ROOT, ahead, load, lost, sized
from lab.frozen.pack import EDGE
from lab.frozen.rows import BOX_WIDTH, CHANNELS, ROWS, box_neck, build_decoder, chosen
from lab.frozen.segment import FINE
from lab.frozen.widths import PADDED, neck_gflops
from lab.study.intervals import Estimate, gain, value
from links import unlinked
from pst.backbones import build_body
from pst.integrations.segmentation.decoder import SegmentationDecoder
from pst.integrations.torchvision import fcos
from pst.integrations.torchvision.outputs import RawHeads
from pst.io.files import read_json
from pst.modules.necks import Neck
from pst.profile.flops import count_flops

INTERVAL = re.compile(r"\(−?[\d.]+ to −?[\d.]+\)")
GENERATED = re.compile(r"<!-- frozen (\S+) begin -->.*?<!-- frozen \1 end -->", re.DOTALL)


class Shown:
    """An estimate as a page shows it.

    Attributes:
        m: Its mean.
        i: Its interval, "low to high".
    """

    def __init__(self, found: Estimate, digits: int) -> None:
        def text(figure: float) -> str:
            return f"{round(100 * figure, digits) + 0.0:.{digits}f}".replace("-", "−")

        self.m = text(found.mean)
        self.i = "" if found.low is None or found.high is None else f"{text(found.low)} to {text(found.high)}"


def over(row: str, other: str, device: str = "cpu", kind: str = "milliseconds", batch: int = 1) -> float:
    """Time of a row as a multiple of another one's."""
    times = read_json(FOLDER / f"latency-{device}.json")[kind][str(batch)]
    return times[row] / times[other]


def prose(document: str) -> str:
    """Without what is generated and where links lead, on one line."""
    return plain(GENERATED.sub("", (ROOT / document).read_text(encoding="utf-8")))


def plain(text: str) -> str:
    return " ".join(unlinked(text).split())


@cache
def rendered(document: str) -> list[str]:
    claims, digits = PAGES[document]
    return [c.text.format(*(Shown(e, c.digits or digits) for e in c.estimates)) for c in claims()]


@pytest.mark.parametrize("document", PAGES)
def test_sentences_have_the_figures_of_the_results(document):
    text = prose(document)
    found = {sentence: re.findall(rf"(?<![\d.]){re.escape(sentence)}(?!\d)", text) for sentence in rendered(document)}
    assert [sentence for sentence, places in found.items() if len(places) != 1] == []


@pytest.mark.parametrize("document", PAGES)
def test_what_is_called_level_holds_zero_and_all_else_excludes_it(document):
    claims, _ = PAGES[document]
    differences = [(c.text, e, c.level) for c in claims() for e in c.estimates if e.low is not None]
    assert [text for text, e, level in differences if e.excludes_zero == level] == []
    if document != "README.md":  # whose table has a sign where these have a word
        assert [text for text, e, level in differences if not level and e.mean < 0] == []


@pytest.mark.parametrize("document", ["docs/frozen.md", "docs/evidence.md", "README.md"])
def test_no_interval_stands_outside_of_these_sentences(document):
    text = prose(document)
    if document != "docs/frozen.md":  # what has its source elsewhere
        rows = (ROOT / document).read_text(encoding="utf-8").splitlines()
        text = "\n".join(plain(row) for row in rows if "frozen.md" in row)
    spans = [m.span() for sentence in rendered(document) for m in re.finditer(re.escape(sentence), text)]
    outside = [m[0] for m in INTERVAL.finditer(text) if not any(a <= m.start() and m.end() <= b for a, b in spans)]
    assert outside == []


def test_no_rule_of_fine_attention_gains_a_fifth_of_a_point():
    """What `docs/evidence.md` counts: on test where masks have one, else on val."""
    gains = []
    for part in ("camvid", "camvid-trained", "bccd", "bccd-trained", "voc", "voc-trained"):
        split = "test" if part.startswith("camvid") else "val"
        for row, found in load(part).items():
            if ROWS[row].kind == "pst":
                gains += [gain([r[split] for r in found], variant).mean for variant in FINE]
    assert f"none of {len(gains)} pairs of neck and rule has a mean gain of a fifth of a point" in prose(
        "docs/evidence.md"
    )
    assert max(gains) < 0.002
    largest = {
        part: max(
            gain([r["test"] for r in found], v).mean
            for row, found in load(part).items()
            for v in FINE
            if ROWS[row].kind == "pst"
        )
        for part in ("camvid", "camvid-trained")
    }
    page = prose("docs/frozen.md")
    assert f"The largest mean gain of any row and rule is {100 * largest['camvid']:.2f} points" in page
    assert f"the largest mean gain is {100 * largest['camvid-trained']:.2f} points" in page
    for part in ("bccd", "voc"):
        found = [
            gain([r["val"] for r in load(part)[row]], v) for row in load(part) for v in FINE if ROWS[row].kind == "pst"
        ]
        assert not any(e.low is not None and e.low > 0 for e in found)
    assert prose("docs/frozen.md").count("No rule of fine attention gains more than chance") == 2


def test_two_forms_of_the_pyramid_are_ahead_of_its_default_on_val_and_none_on_test():
    others = [row for row in load("camvid") if row.startswith("pst-") and row != FIRST]
    assert f"Of {len(others)} other forms, two are ahead" in prose("docs/frozen.md")
    better = {
        split: {row for row in others if (low := ahead("camvid", row, FIRST, split).low) is not None and low > 0}
        for split in ("val", "test")
    }
    assert better == {"val": {"pst-attention-dysample", "pst-aligned-dysample"}, "test": set()}


def test_a_range_spans_all_that_it_is_of():
    decoders = [row for row in load("camvid") if row.startswith("smp-") and row != "smp-deeplabv3plus"]
    necks = [row for row in load("camvid") if row.endswith(("fpn", "bifpn")) and ROWS[row].group == "P3"]
    for rows, count, first, least, most in (
        (decoders, 5, BOUND, "smp-fpn", "smp-deeplabv3plus-s4"),
        (necks, 4, FIRST, "plain-fpn", "pooled-fpn"),
    ):
        means = {row: lost(row, first).mean for row in rows}
        assert len(means) == count
        assert (min(means, key=means.__getitem__), max(means, key=means.__getitem__)) == (least, most)


def test_times_and_costs_are_those_that_the_pages_tell():
    page, short = prose("docs/frozen.md"), prose("docs/evidence.md")
    for said, ratio in {
        "on test, in {:.1f} of the time for one picture": over("laterals", FIRST),
        "they take {:.1f} and": over("pst-aligned-dysample", FIRST),
        "and {:.1f} times as long on a CPU": over("pst-attention-dysample", FIRST),
        "a PST pyramid takes {:.1f} times as long as FPN": over(FIRST, "fpn"),
        "and {:.1f} times on a GPU": over(FIRST, "fpn", "cuda"),
        "and takes {:.1f} times as long on a CPU": over(BOUND, "p2-laterals"),
        "at {:.1f} times the GFLOPs": chosen(ROWS[BOUND])["gflops"] / chosen(ROWS[FIRST])["gflops"],
    }.items():
        assert said.format(ratio) in page, said
    cpu, gpu = ([over(FIRST, "fpn", device), over(BOUND, "p2-fpn", device)] for device in ("cpu", "cuda"))
    assert "{:.1f} (stride 8) and {:.1f} times (stride 4, 100 tokens) FPN's time on a CPU".format(*cpu) in short
    assert "on a GPU, FPN with BatchNorm, {:.1f} and {:.1f}".format(*gpu) in short
    shares = [over(*rows, batch=16) for rows in (("laterals", FIRST), ("p2-laterals", BOUND))]
    assert (
        "In batches of 16 on a CPU, no neck takes {:.1f} and {:.1f} of PST's time, FPN less.".format(*shares) in short
    )
    assert over("plain-fpn", "laterals", batch=16) < 1
    assert over("p2-plain-fpn", "p2-laterals", batch=16) < 1
    assert "at half the GFLOPs (two thirds at the builder's widths) and three quarters of the time on a CPU" in page
    assert chosen(ROWS[BOUND])["gflops"] / chosen(ROWS["p2-pst-attention"])["gflops"] == pytest.approx(1 / 2, abs=0.05)
    assert built_gflops(4, "pst", max_tokens=100) / built_gflops(4, "pst") == pytest.approx(2 / 3, abs=0.05)
    assert over(BOUND, "p2-pst-attention", "cuda") > 1  # "On a GPU it takes longer"
    assert over(BOUND, "p2-pst-attention") == pytest.approx(0.75, abs=0.05)
    assert f"PST; level on val; {over('laterals', FIRST):.1f} of its time" in short
    assert f"No neck is level with PST in {over('p2-laterals', BOUND):.1f} of the time" in short
    assert f"takes about {over('p2-laterals', BOUND):.1f} of PST's time" in prose("docs/segmentation.md")
    with torch.device("meta"):
        body = count_flops(build_body("tf_efficientnet_lite0").eval(), torch.empty(1, 3, *PADDED)) / 1e9
    finer, coarser = (body + chosen(ROWS[row])["gflops"] for row in (BOUND, FIRST))
    assert f"or {finer / coarser:.1f} times those of the whole model" in page
    eight, four = ([f"{built_gflops(stride, neck):.1f}" for neck in ("fpn", "pst", "none")] for stride in (8, 4))
    assert "{} GFLOPs with an FPN, {} with PST and {} without a neck from stride 8".format(*eight) in page
    bounded = built_gflops(4, "pst", max_tokens=100)
    assert "and {}, {} and {} from stride 4, where 100 tokens make PST's {:.1f}.".format(*four, bounded) in page
    fine, coarse = (neck_gflops(ROWS[a]) / neck_gflops(ROWS[b]) for a, b in ((BOUND, "p2-fpn"), (FIRST, "fpn")))
    assert (
        f"twice the GFLOPs of FPN from stride 8, {fine:.1f} times from stride 4, and takes three times as long" in page
    )
    assert coarse == pytest.approx(2, abs=0.1)
    assert over(FIRST, "fpn", kind="boxes") == pytest.approx(3, abs=0.5)
    assert over(BOUND, "p2-fpn", kind="boxes") == pytest.approx(3, abs=0.5)


def test_what_stride_4_costs_a_whole_detector_is_told():
    page, short = prose("docs/frozen.md"), prose("docs/evidence.md")
    none, fpn = ([fcos_gflops(finest, neck, EDGE, BOX_WIDTH) for finest in (8, 4)] for neck in ("none", "fpn"))
    assert "{:.1f} GFLOPs without a neck from stride 8 and {:.1f} from stride 4".format(*none) in page
    assert "from stride 4, {:.1f} and {:.1f} with FPN".format(*fpn) in page
    assert f"A whole FCOS from stride 4 does {none[1] / none[0]:.1f} times the operations of one from stride 8" in short
    assert "at the builders' width three to four times" in short
    necks: tuple[Neck, ...] = ("none", "fpn", "pst")
    wide = [fcos_gflops(4, neck, EDGE) / fcos_gflops(8, neck, EDGE) for neck in necks]
    assert 3 < min(wide) <= max(wide) <= 4


def fcos_gflops(finest: int, neck: Neck, edge: int, width: int = 256) -> float:
    """Of a whole detector as `fcos` builds it for cells, for one picture of ``edge``."""
    options: dict[str, Any] = {"out_channels": width}
    if neck == "pst" and finest == 4:
        options["neck_options"] = {"max_tokens": 100}
    with torch.device("meta"):
        model = fcos("tf_efficientnet_lite0", 4, neck=neck, finest=finest, backbone_options=options)
        return count_flops(RawHeads(model).eval(), torch.empty(1, 3, edge, edge)) / 1e9


def test_the_calls_of_the_page_build_its_rows():
    [code] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/frozen.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    for name, row in {"no_neck_8": "laterals", "fpn_4": "p2-plain-fpn", "pst_4": BOUND}.items():
        found = chosen(ROWS[row])
        measured = build_decoder(ROWS[row], found["width"], found["mlp_ratio"])
        assert shapes(names[name].decoder) == shapes(measured), name
    for name, row in {"cells": "p2-laterals", "photos": "plain-fpn"}.items():
        assert shapes(names[name].backbone.fpn, but="extra_blocks") == shapes(box_neck(ROWS[row])), name


def shapes(module: torch.nn.Module, but: str = "-") -> list[torch.Size]:
    return [p.shape for name, p in module.named_parameters() if not name.startswith(but)]


def built_gflops(finest: int, neck: Neck, **options: Any) -> float:
    """Of neck and head as `PSTSegmenter` builds them, for one picture of `PADDED`."""
    used = {stride: channels for stride, channels in CHANNELS.items() if stride >= finest}
    with torch.device("meta"):
        decoder = SegmentationDecoder(list(used), list(used.values()), 256, 128, neck, finest, **options)
        maps = OrderedDict((str(s), torch.empty(1, c, PADDED[0] // s, PADDED[1] // s)) for s, c in used.items())
    return count_flops(decoder, maps) / 1e9


def test_what_stride_4_does_to_cells_of_a_size_is_told():
    pairs = [("plain-fpn", "p2-plain-fpn"), ("fpn", "p2-fpn"), ("laterals", "p2-laterals"), (FIRST, BOUND)]
    gains = [100 * (sized("bccd", fine).mean - sized("bccd", coarse).mean) for coarse, fine in pairs]
    lost = 100 * (sized("bccd", "laterals", "large").mean - sized("bccd", "p2-laterals", "large").mean)
    page = prose("docs/frozen.md")
    assert f"by {min(gains):.1f} to {max(gains):.1f} points of their AP" in page
    assert f"without a neck large ones lose {lost:.1f}" in page


def test_how_far_seeds_lie_apart_is_told():
    found = [100 * r["val"]["evaluations"]["k0"]["value"] for r in load("voc-trained")["p2-plain-fpn"]]
    assert f"its seeds lie {max(found) - min(found):.1f} AP apart" in prose("docs/frozen.md")


def test_the_range_of_ap_on_voc_is_told():
    figures = [100 * value([r["val"] for r in found], "k0").mean for found in load("voc").values()]
    assert f"leave all frozen necks between {min(figures):.0f} and {max(figures):.0f} AP" in prose("docs/evidence.md")
