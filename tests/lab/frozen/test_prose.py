"""What the pages say in words of the pretrained network is what its results give.

A sentence stands here with holes: ``{0.m}`` is the mean of the first estimate, ``{0.i}`` its interval, both in points.
An interval that stands in no sentence here fails a test too.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.frozen import tables
from lab.frozen.command import RESULTS
from lab.frozen.rows import ROWS, chosen
from lab.frozen.segment import FINE
from lab.frozen.widths import neck_gflops
from lab.study.intervals import Estimate, difference, gain, value
from pst.io.files import read_json

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / RESULTS
INTERVAL = re.compile(r"\(−?[\d.]+ to −?[\d.]+\)")
GENERATED = re.compile(r"<!-- frozen (\S+) begin -->.*?<!-- frozen \1 end -->", re.DOTALL)
FIRST, BOUND = "pst-attention", "p2-pst-attention-bound"


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


@cache
def load(part: str) -> tables.Results:
    """Results by row; a part that ends with "-trained" is of the trained network."""
    return tables.load(FOLDER, part.removesuffix("-trained"), trained=part.endswith("-trained"))


@cache
def ahead(part: str, row: str, other: str, split: str = "val") -> Estimate:
    """How far a row is ahead of another one."""
    ours, theirs = ([r[split] for r in load(part)[name]] for name in (row, other))
    return difference(ours, "k0", theirs, "k0")


def behind(part: str, row: str, other: str, split: str = "val") -> Estimate:
    """How far a row is behind another one: `ahead` with the other sign, so of the same resamples."""
    found = ahead(part, row, other, split)
    assert found.low is not None
    assert found.high is not None
    return Estimate(-found.mean, None, found.n, -found.high, -found.low)


def small(part: str, row: str) -> Estimate:
    """AP of small objects."""
    return value([r["val"] for r in load(part)[row]], "k0", "small")


def over(row: str, other: str, device: str = "cpu", kind: str = "milliseconds") -> float:
    """Time of a row as a multiple of another one's."""
    times = read_json(FOLDER / f"latency-{device}.json")[kind]["1"]
    return times[row] / times[other]


def on_test(row: str, other: str, part: str = "camvid") -> Estimate:
    """`ahead` on the test split of CamVid."""
    return ahead(part, row, other, "test")


def lost(row: str, other: str, part: str = "camvid") -> Estimate:
    """`behind` on the test split of CamVid."""
    return behind(part, row, other, "test")


class Claim(NamedTuple):
    """A sentence.

    Attributes:
        text: With holes.
        estimates: That fill them.
        level: Whether the intervals hold zero.
        digits: Behind the point; None is the page's own number.
    """

    text: str
    estimates: list[Estimate]
    level: bool = False
    digits: int | None = None


def frozen() -> list[Claim]:
    c, b, v = "camvid", "bccd", "voc"
    return [
        Claim("Leaving the neck out is level with it on val and", [ahead(c, "laterals", FIRST)], level=True),
        Claim("on val and {0.m} points ahead on test", [on_test("laterals", FIRST)]),
        Claim(
            "A level of stride 4 adds {0.m} points to no neck, {1.m} to FPN and {2.m} to PST",
            [on_test("p2-laterals", "laterals"), on_test("p2-fpn", "fpn"), on_test(BOUND, FIRST)],
        ),
        Claim(
            "DySample with aligned, added maps by {0.m} ({0.i}), and DySample alone by {1.m} ({1.i})",
            [ahead(c, name, FIRST) for name in ("pst-aligned-dysample", "pst-attention-dysample")],
            digits=2,
        ),
        Claim("Concatenating is {0.m} AP ahead ({0.i}) on blood cells", [ahead(b, "pst-concat", FIRST)]),
        Claim("on blood cells and not on VOC", [ahead(v, "pst-concat", FIRST)], level=True),
        Claim("PST with 100 tokens and no neck are level on test", [lost("p2-laterals", BOUND)], level=True),
        Claim("on val PST is {0.m} points ahead ({0.i})", [behind(c, "p2-laterals", BOUND)]),
        Claim(
            "a PST pyramid is {0.m} to {1.m} points of mIoU ahead of FPN, pyramid pooling and BiFPN on test",
            [lost(name, FIRST) for name in ("plain-fpn", "pooled-fpn", "fpn", "bifpn")],
        ),
        Claim("which is {0.m} points ahead of it on test", [on_test("plain-fpn", "fpn")], level=True),
        Claim("PST is {0.m} points ahead of FPN ({0.i})", [lost("p2-fpn", BOUND)]),
        Claim("{0.m} ahead of FPN without BatchNorm ({0.i})", [lost("p2-plain-fpn", BOUND)]),
        Claim(
            "{0.m} to {1.m} ahead of the decoders of segmentation_models_pytorch",
            [lost("smp-fpn", BOUND), lost("smp-deeplabv3plus-s4", BOUND)],
        ),
        Claim("of the other necks only BiFPN's interval holds zero", [lost("p2-bifpn", BOUND)], level=True),
        Claim(
            "of the other necks only", [lost(f"p2-{name}", BOUND) for name in ("fpn", "plain-fpn", "pan", "pooled-fpn")]
        ),
        Claim(
            "No neck is {0.m} behind PST on val ({0.i}), and {1.m} ahead on test ({1.i})",
            [behind("camvid-trained", "laterals", FIRST), on_test("laterals", FIRST, "camvid-trained")],
        ),
        Claim(
            "FPN is behind both on both",
            [ahead("camvid-trained", row, "fpn", split) for row in (FIRST, "laterals") for split in ("val", "test")],
        ),
        Claim("is {0.m} behind PST on val ({0.i}) and level", [behind("camvid-trained", "plain-fpn", FIRST)]),
        Claim("and level with it on test.", [lost("plain-fpn", FIRST, "camvid-trained")], level=True),
        Claim("{0.m} AP ahead of no neck from stride 8 ({0.i})", [ahead(b, "p2-laterals", "laterals")]),
        Claim("{0.m} ahead of PST from stride 4 ({0.i})", [ahead(b, "p2-laterals", BOUND)]),
        Claim("level with it, {0.m} behind ({0.i})", [ahead(b, "p2-laterals", "p2-fpn")], level=True),
        Claim("and {0.m} ahead of FPN from stride 8 ({0.i})", [ahead(b, "p2-fpn", "fpn")]),
        Claim(
            "FPN without BatchNorm from stride 4 is level with both",
            [ahead(b, row, "p2-plain-fpn") for row in ("p2-laterals", "p2-fpn")],
            level=True,
        ),
        Claim("and {0.m} ahead of PST from stride 4 ({0.i})", [ahead(b, "p2-plain-fpn", BOUND)], digits=2),
        Claim(
            "is {0.m} AP ahead of PST, and PST with the coarser map concatenated, as in the paper's detectors, {1.m}",
            [ahead(b, "laterals", FIRST), ahead(b, "pst-concat", FIRST)],
        ),
        Claim(
            "FPN, PAN and the other wirings are level with PST",
            [ahead(b, row, FIRST) for row in ("fpn", "plain-fpn", "pan", "pst-add", "pst-aligned")],
            level=True,
        ),
        Claim("and BiFPN is {0.m} behind ({0.i})", [behind(b, "bifpn", FIRST)]),
        Claim(
            "No neck is the best row, and PST is second; no interval excludes zero",
            [ahead("bccd-trained", row, FIRST) for row in ("laterals", "plain-fpn", "fpn")],
            level=True,
        ),
        Claim("It is {0.m} AP ahead of the PST pyramid ({0.i})", [ahead(v, "fpn", FIRST)]),
        Claim(
            "is level with it: {0.m} ahead ({0.i}). So is FPN from stride 4: {1.m} ahead ({1.i})",
            [ahead(v, "pan", "fpn"), ahead(v, "p2-fpn", "fpn")],
            level=True,
        ),
        Claim("is level with FPN, {0.m} behind ({0.i})", [behind(v, "plain-fpn", "fpn")], level=True),
        Claim("and {0.m} ahead of PST ({0.i})", [ahead(v, "plain-fpn", FIRST)]),
        Claim(
            "BiFPN, no neck and PST with the coarser map concatenated or added are level with PST",
            [ahead(v, row, FIRST) for row in ("bifpn", "laterals", "pst-concat", "pst-add")],
            level=True,
        ),
        Claim("aligned levels is level with PST too ({0.i})", [ahead(v, "pst-aligned", FIRST)], level=True),
        Claim("and {0.m} behind FPN ({0.i})", [behind(v, "pst-aligned", "fpn")]),
        Claim("stride 4 is {0.m} AP behind stride 8 ({0.i})", [behind(v, "p2-laterals", "laterals")], digits=2),
        Claim("level with stride 8 ({0.i})", [ahead(v, BOUND, FIRST)], level=True),
        Claim("and {0.m} behind FPN from stride 4 ({0.i})", [behind(v, BOUND, "p2-fpn")]),
        Claim(
            "FPN is {0.m} AP ahead of PST ({0.i}), FPN without BatchNorm {1.m} ({1.i})",
            [ahead("voc-trained", row, FIRST) for row in ("fpn", "plain-fpn")],
        ),
        Claim("no neck is level with PST ({0.i})", [ahead("voc-trained", "laterals", FIRST)], level=True),
    ]


def evidence() -> list[Claim]:
    return [
        Claim("+{0.m} mIoU on test ({0.i}), level", [on_test("laterals", FIRST)]),
        Claim("level on val", [ahead("camvid", "laterals", FIRST)], level=True),
        Claim("PST pyramid, which is {0.m} ({0.i}) above FPN", [lost("plain-fpn", FIRST)]),
        Claim("is level on test", [lost("p2-laterals", BOUND)], level=True),
        Claim(", {0.m} behind on val", [behind("camvid", "p2-laterals", BOUND)]),
        Claim("+{0.m} mIoU on test ({0.i}) | no neck from stride 8", [on_test(BOUND, "laterals")]),
        Claim("FPN from stride 4 is {0.m} ({0.i}) below PST", [lost("p2-plain-fpn", BOUND)]),
        Claim("+{0.m} mIoU on test ({0.i}),", [lost("plain-fpn", FIRST, "camvid-trained")], level=True),
        Claim(", +{0.m} on val ({0.i}) | FPN;", [behind("camvid-trained", "plain-fpn", FIRST)]),
        Claim(
            "without a neck {0.m} above PST on test, {1.m} below on val",
            [on_test("laterals", FIRST, "camvid-trained"), behind("camvid-trained", "laterals", FIRST)],
        ),
        Claim("FPN from stride 4 is level with it | ", [ahead("bccd", "p2-plain-fpn", "p2-laterals")], level=True),
        Claim("+{0.m} AP ({0.i}) | PST pyramid from stride 4", [ahead("bccd", "p2-laterals", BOUND)]),
        Claim("no neck from stride 8 is {0.m} below", [ahead("bccd", "p2-laterals", "laterals")]),
        Claim(
            "PST and FPN are level with it | +{0.m} AP ({0.i})",
            [ahead("bccd-trained", "laterals", row) for row in (FIRST, "plain-fpn", "fpn")],
            level=True,
        ),
        Claim(
            "PAN is level with it, and so is FPN from stride 4, all with BatchNorm in them |",
            [ahead("voc", row, "fpn") for row in ("pan", "p2-fpn")],
            level=True,
        ),
        Claim("in them | +{0.m} AP ({0.i}); with", [ahead("voc", "plain-fpn", FIRST)]),
        Claim("with BatchNorm in it +{0.m} ({0.i})", [ahead("voc", "fpn", FIRST)]),
        Claim(
            "the network trained as well | FPN | +{0.m} AP ({0.i}); with BatchNorm in it +{1.m} ({1.i})",
            [ahead("voc-trained", row, FIRST) for row in ("plain-fpn", "fpn")],
        ),
    ]


def readme() -> list[Claim]:
    return [
        Claim("frozen, PST pyramid against FPN, CamVid | +{0.m} mIoU ({0.i})", [lost("plain-fpn", FIRST)]),
        Claim("PST with 100 coarse tokens against FPN | +{0.m} mIoU ({0.i})", [lost("p2-plain-fpn", BOUND)]),
        Claim("PST pyramid of equal cost, frozen network | +{0.m} mIoU ({0.i})", [on_test("laterals", FIRST)]),
        Claim("blood cells, frozen network | +{0.m} AP ({0.i})", [ahead("bccd", "laterals", FIRST)]),
        Claim("photos of VOC, frozen network | +{0.m} AP ({0.i})", [ahead("voc", "plain-fpn", FIRST)]),
    ]


def faq() -> list[Claim]:
    b, v = "bccd", "voc"
    return [
        Claim(
            "small objects from {0.m} to {1.m} with an FPN, from {2.m} to {3.m} without a neck, and from {4.m} to",
            [small(b, row) for row in ("plain-fpn", "p2-plain-fpn", "laterals", "p2-laterals", FIRST)],
        ),
        Claim("and from {0.m} to {1.m} with a PST pyramid", [small(b, row) for row in (FIRST, BOUND)]),
        Claim(
            "{0.m} to {1.m} with an FPN, while it fell from {2.m} to {3.m} without a neck, and from {4.m} to {5.m}",
            [small(v, row) for row in ("fpn", "p2-fpn", "laterals", "p2-laterals", FIRST, BOUND)],
        ),
    ]


def segmentation() -> list[Claim]:
    return [
        Claim(
            "a PST pyramid is {0.m} to {1.m} points ahead of an FPN",
            [lost("plain-fpn", FIRST), lost("p2-plain-fpn", BOUND)],
        ),
        Claim("level on test and {0.m} points behind on val", [behind("camvid", "p2-laterals", BOUND)]),
    ]


def torchvision() -> list[Claim]:
    return [
        Claim("On cells no neck was ahead of PST", [ahead("bccd", "laterals", FIRST)]),
        Claim(
            "on photos, by {0.m} AP with the network frozen and {1.m} trained",
            [ahead("voc", "plain-fpn", FIRST), ahead("voc-trained", "plain-fpn", FIRST)],
        ),
        Claim("stride 4 FPN was {0.m} AP ahead ({0.i}), and", [ahead("bccd", "p2-plain-fpn", BOUND)], digits=2),
        Claim("and no neck {0.m} ([pretrained]", [ahead("bccd", "p2-laterals", BOUND)]),
    ]


PAGES = {
    "docs/frozen.md": (frozen, 1),
    "docs/evidence.md": (evidence, 2),
    "README.md": (readme, 2),
    "docs/faq.md": (faq, 1),
    "docs/segmentation.md": (segmentation, 1),
    "docs/torchvision.md": (torchvision, 1),
}


def prose(document: str) -> str:
    """Without what is generated, on one line."""
    text = GENERATED.sub("", (ROOT / document).read_text(encoding="utf-8"))
    return " ".join(text.split())


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
    assert [text for text, e, level in differences if not level and e.mean < 0] == []


@pytest.mark.parametrize("document", ["docs/frozen.md", "docs/evidence.md", "README.md"])
def test_no_interval_stands_outside_of_these_sentences(document):
    text = prose(document)
    if document != "docs/frozen.md":  # what has its source elsewhere
        rows = (ROOT / document).read_text(encoding="utf-8").splitlines()
        text = "\n".join(" ".join(row.split()) for row in rows if "frozen.md" in row)
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
    assert f"none of {len(gains)} pairs of a neck and a rule gains a fifth of a point" in prose("docs/evidence.md")
    assert max(gains) < 0.002


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
        "on test, in {:.1f} of the time": over("laterals", FIRST),
        "they take {:.1f} and": over("pst-attention-dysample", FIRST),
        "and {:.1f} times as long on a CPU": over("pst-aligned-dysample", FIRST),
        "a PST pyramid takes {:.1f} times as long as FPN": over(FIRST, "fpn"),
        "and {:.1f} times on a GPU": over(FIRST, "fpn", "cuda"),
        "and takes {:.1f} times as long on a CPU": over(BOUND, "p2-laterals"),
        "at {:.1f} times the GFLOPs": chosen(ROWS[BOUND])["gflops"] / chosen(ROWS[FIRST])["gflops"],
    }.items():
        assert said.format(ratio) in page, said
    cpu, gpu = over(FIRST, "fpn"), over(FIRST, "fpn", "cuda")
    assert f"{cpu:.1f} times the time of FPN on a CPU, {gpu:.1f} times on a GPU" in short
    assert f"at {chosen(ROWS[BOUND])['gflops'] / chosen(ROWS[FIRST])['gflops']:.1f} times the operations" in short
    assert "at half the GFLOPs and three quarters of the time on a CPU" in page
    assert over(BOUND, "p2-pst-attention") == pytest.approx(0.75, abs=0.05)
    assert "no neck takes half the time on a CPU" in short
    assert over("p2-laterals", BOUND) == pytest.approx(0.5, abs=0.1)
    fine, coarse = (neck_gflops(ROWS[a]) / neck_gflops(ROWS[b]) for a, b in ((BOUND, "p2-fpn"), (FIRST, "fpn")))
    assert (
        f"twice the GFLOPs of FPN from stride 8, {fine:.1f} times from stride 4, and takes three times as long" in page
    )
    assert f"PST does {fine:.1f} times the operations of FPN from stride 4, twice as many from stride 8" in short
    assert coarse == pytest.approx(2, abs=0.1)
    assert over(FIRST, "fpn", kind="boxes") == pytest.approx(3, abs=0.5)
    assert over(BOUND, "p2-fpn", kind="boxes") == pytest.approx(3, abs=0.5)


def test_the_range_of_ap_on_voc_is_told():
    figures = [100 * value([r["val"] for r in found], "k0").mean for found in load("voc").values()]
    assert f"leave all necks between {min(figures):.0f} and {max(figures):.0f} AP" in prose("docs/evidence.md")
