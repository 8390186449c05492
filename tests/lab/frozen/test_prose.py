"""What the pages say in words of the pretrained network is what its results give.

A sentence stands here with holes: ``{0.m}`` is the mean of the first estimate, ``{0.i}`` its interval, both in points.
An interval that stands in no sentence here fails a test too.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

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


Claims = list[tuple[str, list[Estimate]]]


def frozen() -> Claims:
    """One digit."""
    c, b, v = "camvid", "bccd", "voc"
    add = "pst-aligned-dysample"
    return [
        ("Leaving the neck out is level with it on val and {0.m} points ahead on test", [on_test("laterals", FIRST)]),
        (
            "A level of stride 4 adds {0.m} points to no neck, {1.m} to FPN and {2.m} to PST",
            [on_test("p2-laterals", "laterals"), on_test("p2-fpn", "fpn"), on_test(BOUND, FIRST)],
        ),
        ("DySample with aligned, added maps by {0.m} ({0.i})", [ahead(c, add, FIRST)]),
        ("and DySample alone by {0.m} ({0.i})", [ahead(c, "pst-attention-dysample", FIRST)]),
        ("Concatenating is {0.m} AP ahead ({0.i}) on blood cells", [ahead(b, "pst-concat", FIRST)]),
        ("on val PST is {0.m} points ahead ({0.i})", [behind(c, "p2-laterals", BOUND)]),
        ("PST is {0.m} points ahead of FPN ({0.i})", [lost("p2-fpn", BOUND)]),
        (
            "{0.m} to {1.m} ahead of four decoders of segmentation_models_pytorch",
            [lost("smp-fpn", BOUND), lost("smp-upernet", BOUND)],
        ),
        ("No neck is {0.m} behind PST on val ({0.i})", [behind("camvid-trained", "laterals", FIRST)]),
        ("and {0.m} ahead on test ({0.i})", [on_test("laterals", FIRST, "camvid-trained")]),
        ("{0.m} AP ahead of no neck from stride 8 ({0.i})", [ahead(b, "p2-laterals", "laterals")]),
        ("{0.m} ahead of PST from stride 4 ({0.i})", [ahead(b, "p2-laterals", BOUND)]),
        ("level with it, {0.m} behind ({0.i})", [ahead(b, "p2-laterals", "p2-fpn")]),
        ("and {0.m} ahead of FPN from stride 8 ({0.i})", [ahead(b, "p2-fpn", "fpn")]),
        (
            "no neck is {0.m} AP ahead of PST, and PST with the coarser map concatenated, as in the paper's, {1.m}",
            [ahead(b, "laterals", FIRST), ahead(b, "pst-concat", FIRST)],
        ),
        ("and BiFPN is {0.m} behind ({0.i})", [behind(b, "bifpn", FIRST)]),
        ("It is {0.m} AP ahead of the PST pyramid ({0.i})", [ahead(v, "fpn", FIRST)]),
        ("PAN, with twice the parameters, is level with it: {0.m} ahead ({0.i})", [ahead(v, "pan", "fpn")]),
        ("So is FPN from stride 4: {0.m} ahead ({0.i})", [ahead(v, "p2-fpn", "fpn")]),
        ("is level with FPN, {0.m} behind ({0.i})", [behind(v, "plain-fpn", "fpn")]),
        ("and {0.m} ahead of PST ({0.i})", [ahead(v, "plain-fpn", FIRST)]),
        ("aligned levels is level with PST too ({0.i})", [ahead(v, "pst-aligned", FIRST)]),
        ("and {0.m} behind FPN ({0.i})", [behind(v, "pst-aligned", "fpn")]),
        ("stride 4 is {0.m} AP behind stride 8 ({0.i})", [behind(v, "p2-laterals", "laterals")]),
        ("level with stride 8 ({0.i})", [ahead(v, BOUND, FIRST)]),
        ("and {0.m} behind FPN from stride 4 ({0.i})", [behind(v, BOUND, "p2-fpn")]),
        ("FPN is {0.m} AP ahead of PST ({0.i})", [ahead("voc-trained", "fpn", FIRST)]),
        ("is level with PST ({0.i})", [ahead("voc-trained", "laterals", FIRST)]),
    ]


def evidence() -> Claims:
    """Two digits."""
    return [
        ("+{0.m} mIoU on test ({0.i}), level on val", [on_test("laterals", FIRST)]),
        ("PST pyramid, which is {0.m} ({0.i}) above FPN", [lost("fpn", FIRST)]),
        ("is level on test, {0.m} behind on val", [behind("camvid", "p2-laterals", BOUND)]),
        ("+{0.m} mIoU on test ({0.i}) | FPN; four", [lost("p2-fpn", BOUND)]),
        ("are {0.m} to {1.m} below PST", [lost("smp-fpn", BOUND), lost("smp-upernet", BOUND)]),
        ("+{0.m} mIoU on test ({0.i}) | FPN; without", [lost("fpn", FIRST, "camvid-trained")]),
        (
            "without a neck {0.m} above PST on test, {1.m} below on val",
            [on_test("laterals", FIRST, "camvid-trained"), behind("camvid-trained", "laterals", FIRST)],
        ),
        ("+{0.m} AP ({0.i}) | PST pyramid from stride 4", [ahead("bccd", "p2-laterals", BOUND)]),
        ("no neck from stride 8 is {0.m} below", [ahead("bccd", "p2-laterals", "laterals")]),
        ("PST and FPN are level with it | +{0.m} AP ({0.i})", [ahead("bccd-trained", "laterals", FIRST)]),
        ("so is FPN from stride 4 | +{0.m} AP ({0.i})", [ahead("voc", "plain-fpn", FIRST)]),
        ("with BatchNorm +{0.m} ({0.i})", [ahead("voc", "fpn", FIRST)]),
        ("the network trained as well | FPN | +{0.m} AP ({0.i}), with", [ahead("voc-trained", "fpn", FIRST)]),
    ]


def readme() -> Claims:
    """Two digits."""
    return [
        ("frozen, PST pyramid against FPN, CamVid | +{0.m} mIoU ({0.i})", [lost("fpn", FIRST)]),
        ("PST with 100 coarse tokens against FPN | +{0.m} mIoU ({0.i})", [lost("p2-fpn", BOUND)]),
        ("PST pyramid of equal cost, frozen network | +{0.m} mIoU ({0.i})", [on_test("laterals", FIRST)]),
        ("blood cells, frozen network | +{0.m} AP ({0.i})", [ahead("bccd", "laterals", FIRST)]),
        ("photos of VOC, frozen network | +{0.m} AP ({0.i})", [ahead("voc", "fpn", FIRST)]),
    ]


def faq() -> Claims:
    """One digit."""
    b, v = "bccd", "voc"
    return [
        (
            "from {0.m} to {1.m} with an FPN, from {2.m} to {3.m} without a neck, and from {4.m} to {5.m} with a PST",
            [small(b, row) for row in ("fpn", "p2-fpn", "laterals", "p2-laterals", FIRST, BOUND)],
        ),
        (
            "from {0.m} to {1.m} with an FPN, and without a neck it was {2.m}",
            [small(v, row) for row in ("fpn", "p2-fpn", "p2-laterals")],
        ),
    ]


def segmentation() -> Claims:
    """One digit."""
    return [
        ("a PST pyramid is {0.m} to {1.m} points ahead of an FPN", [lost("fpn", FIRST), lost("p2-fpn", BOUND)]),
        ("level on test and {0.m} points behind on val", [behind("camvid", "p2-laterals", BOUND)]),
    ]


def torchvision() -> Claims:
    """One digit."""
    return [
        (
            "on photos, by {0.m} AP with the network frozen and {1.m} trained",
            [ahead("voc", "fpn", FIRST), ahead("voc-trained", "fpn", FIRST)],
        ),
        (
            "stride 4 FPN was {0.m} AP ahead, which may just be chance, and no neck {1.m}",
            [ahead("bccd", row, BOUND) for row in ("p2-fpn", "p2-laterals")],
        ),
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
    return [text.format(*(Shown(e, digits) for e in estimates)) for text, estimates in claims()]


@pytest.mark.parametrize("document", PAGES)
def test_sentences_have_the_figures_of_the_results(document):
    text = prose(document)
    assert [sentence for sentence in rendered(document) if sentence not in text] == []


@pytest.mark.parametrize("document", ["docs/frozen.md", "docs/evidence.md", "README.md"])
def test_no_interval_stands_outside_of_these_sentences(document):
    text = prose(document)
    if document != "docs/frozen.md":  # what has its source elsewhere
        rows = (ROOT / document).read_text(encoding="utf-8").splitlines()
        text = "\n".join(" ".join(row.split()) for row in rows if "frozen.md" in row)
    for sentence in rendered(document):
        text = text.replace(sentence, "")
    assert INTERVAL.findall(text) == []


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
    assert f"take {over(FIRST, 'fpn'):.1f} times as long as with FPN, and on a GPU" in short
    assert f"on a GPU {over(FIRST, 'fpn', 'cuda'):.1f} times" in short
    assert over(BOUND, "p2-pst-attention") == pytest.approx(0.75, abs=0.05)  # three quarters
    assert over(FIRST, "fpn", kind="boxes") == pytest.approx(3, abs=0.5)  # three times
    assert neck_gflops(ROWS[FIRST]) / neck_gflops(ROWS["fpn"]) == pytest.approx(2, abs=0.1)  # twice
