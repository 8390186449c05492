"""Sentences of the pages that tell of the pretrained network, each with the estimates that it is made of.

A sentence has holes: ``{0.m}`` is the mean of the first estimate, ``{0.i}`` its interval, both in points.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lab.frozen import tables
from lab.frozen.command import RESULTS
from lab.study.intervals import Estimate, difference, value

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / RESULTS
FIRST, BOUND = "pst-attention", "p2-pst-attention-bound"


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


def sized(part: str, row: str, size: str = "small") -> Estimate:
    """AP of objects of a size."""
    return value([r["val"] for r in load(part)[row]], "k0", size)


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
    c, ct, b, bt, v = "camvid", "camvid-trained", "bccd", "bccd-trained", "voc"
    return [
        Claim("Leaving the neck out is level with it on val and", [ahead(c, "laterals", FIRST)], level=True),
        Claim("on val and {0.m} points ahead on test", [on_test("laterals", FIRST)]),
        Claim(
            "a level of stride 4 adds {0.m} points to no neck, {1.m} to FPN and {2.m} to PST",
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
        Claim("is {0.m} points ahead of it on val ({0.i}) and level", [ahead(c, "plain-fpn", "fpn")]),
        Claim("and level with it on test. Milliseconds", [on_test("plain-fpn", "fpn")], level=True),
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
            [behind(ct, "laterals", FIRST), on_test("laterals", FIRST, ct)],
        ),
        Claim(
            "FPN is behind both on both",
            [ahead(ct, row, "fpn", split) for row in (FIRST, "laterals") for split in ("val", "test")],
        ),
        Claim("is {0.m} behind PST on val ({0.i}) and level", [behind(ct, "plain-fpn", FIRST)]),
        Claim(
            "PST with 100 tokens and no neck are level on val and on test",
            [ahead(ct, BOUND, "p2-laterals", split) for split in ("val", "test")],
            level=True,
        ),
        Claim(
            "on both, on test by {0.m} ({0.i}) and {1.m} ({1.i})",
            [on_test(row, "p2-plain-fpn", ct) for row in (BOUND, "p2-laterals")],
        ),
        Claim(
            "ahead of FPN without BatchNorm on both",
            [ahead(ct, row, "p2-plain-fpn") for row in (BOUND, "p2-laterals")],
        ),
        Claim(
            "at almost twice the GFLOPs, is level with 100",
            [ahead(ct, "p2-pst-add", BOUND, split) for split in ("val", "test")],
            level=True,
        ),
        Claim(
            "adds {0.m} points to PST on test ({0.i}), {1.m} to FPN without BatchNorm ({1.i})"
            " and {2.m} to no neck ({2.i})",
            [
                on_test(a, b, ct)
                for a, b in ((BOUND, FIRST), ("p2-plain-fpn", "plain-fpn"), ("p2-laterals", "laterals"))
            ],
        ),
        Claim(
            "another drive; from stride 4 both are level",
            [ahead(ct, BOUND, "p2-laterals", split) for split in ("val", "test")],
            level=True,
        ),
        Claim("and level with it on test. Strides 8 to 32:", [lost("plain-fpn", FIRST, ct)], level=True),
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
            "again the best row, {0.m} AP ahead of no neck from stride 8 ({0.i})",
            [ahead(bt, "p2-laterals", "laterals")],
        ),
        Claim(
            "FPN without BatchNorm from stride 4 is level with it, and",
            [ahead(bt, "p2-laterals", "p2-plain-fpn")],
            level=True,
        ),
        Claim("{0.m} ahead of itself from stride 8 ({0.i})", [ahead(bt, "p2-plain-fpn", "plain-fpn")]),
        Claim("No neck from stride 4 is {0.m} ahead of PST from stride 4 ({0.i})", [ahead(bt, "p2-laterals", BOUND)]),
        Claim(
            "From stride 8 all are level:",
            [ahead(bt, row, FIRST) for row in ("laterals", "plain-fpn", "fpn")],
            level=True,
        ),
        Claim("With BatchNorm it is {0.m} AP ahead of the PST pyramid ({0.i})", [ahead(v, "fpn", FIRST)]),
        Claim(
            "is level with FPN: {0.m} ahead ({0.i}). So is FPN from stride 4: {1.m} ahead ({1.i})",
            [ahead(v, "pan", "fpn"), ahead(v, "p2-fpn", "fpn")],
            level=True,
        ),
        Claim(
            "the two are level, FPN without BatchNorm {0.m} behind ({0.i})", [behind(v, "plain-fpn", "fpn")], level=True
        ),
        Claim("builds it, {0.m} ahead of PST ({0.i})", [ahead(v, "plain-fpn", FIRST)]),
        Claim(
            "with BatchNorm from stride 4 is {0.m} ahead of FPN without BatchNorm from stride 8 ({0.i})",
            [ahead(v, "p2-fpn", "plain-fpn")],
        ),
        Claim(
            "FPN without BatchNorm from stride 4 is level with itself from stride 8 ({0.i}). BiFPN",
            [ahead(v, "p2-plain-fpn", "plain-fpn")],
            level=True,
        ),
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
        Claim(
            "FPN is level with itself from stride 8, {0.m} behind ({0.i});",
            [behind("voc-trained", "p2-plain-fpn", "plain-fpn")],
            level=True,
        ),
        Claim(
            "PST is level with itself from stride 8 ({0.i}), with FPN from stride 4, {1.m} behind ({1.i}), and with"
            " no neck from stride 4 ({2.i}).",
            [
                ahead("voc-trained", BOUND, FIRST),
                behind("voc-trained", BOUND, "p2-plain-fpn"),
                ahead("voc-trained", BOUND, "p2-laterals"),
            ],
            level=True,
        ),
        Claim("It is {0.m} behind FPN from stride 8 ({0.i})", [behind("voc-trained", BOUND, "plain-fpn")]),
        Claim(
            "No neck is level with itself from stride 8 too",
            [behind("voc-trained", "p2-laterals", "laterals")],
            level=True,
        ),
        Claim(
            "from stride 8 too, and {0.m} behind FPN from stride 4 ({0.i})",
            [ahead("voc-trained", "p2-plain-fpn", "p2-laterals")],
        ),
    ]


def evidence() -> list[Claim]:
    b, bt, c, ct, vt = "bccd", "bccd-trained", "camvid", "camvid-trained", "voc-trained"
    return [
        Claim('`neck="none", finest=8` | frozen +{0.m} mIoU ({0.i}) | PST;', [on_test("laterals", FIRST)]),
        Claim("PST; level on val;", [ahead(c, "laterals", FIRST)], level=True),
        Claim(
            "100}}` | frozen +{0.m} mIoU ({0.i}), trained +{1.m} mIoU ({1.i}) | FPN.",
            [lost("p2-plain-fpn", BOUND, part) for part in (c, ct)],
        ),
        Claim(
            "No neck is level with PST in 0.6 of the time",
            [lost("p2-laterals", BOUND), *(ahead(ct, "p2-laterals", BOUND, split) for split in ("val", "test"))],
            level=True,
        ),
        Claim("frozen, {0.m} behind on val |", [behind(c, "p2-laterals", BOUND)]),
        Claim(
            '`neck="none", finest=4` | frozen +{0.m} AP ({0.i}), trained +{1.m} AP ({1.i}) | PST.',
            [ahead(part, "p2-laterals", BOUND) for part in (b, bt)],
        ),
        Claim(
            "PST. FPN is level |",
            [ahead(part, "p2-plain-fpn", "p2-laterals") for part in (b, bt)],
            level=True,
        ),
        Claim(
            'FPN, stride 8: `neck="fpn"` | frozen +{0.m} AP ({0.i}), trained +{1.m} AP ({1.i}) | PST.',
            [ahead(part, "plain-fpn", FIRST) for part in ("voc", vt)],
        ),
        Claim(
            "FPN from stride 4 is level |",
            [ahead(part, "p2-plain-fpn", "plain-fpn") for part in ("voc", vt)],
            level=True,
        ),
    ]


def readme() -> list[Claim]:
    return [
        Claim(
            "frozen, PST pyramid against torchvision's FPN, CamVid | +{0.m} mIoU ({0.i})", [lost("plain-fpn", FIRST)]
        ),
        Claim(
            "PST with 100 coarse tokens against torchvision's FPN | +{0.m} mIoU ({0.i})", [lost("p2-plain-fpn", BOUND)]
        ),
        Claim("against no neck, as many operations | {0.m} mIoU ({0.i})", [lost("laterals", FIRST)]),
        Claim("against no neck, blood cells | {0.m} AP ({0.i})", [behind("bccd", "laterals", FIRST)]),
        Claim("torchvision's FPN, photos of VOC | {0.m} AP ({0.i})", [behind("voc", "plain-fpn", FIRST)]),
    ]


def faq() -> list[Claim]:
    b, v = "bccd", "voc"
    return [
        Claim(
            "small objects from {0.m} to {1.m} with an FPN, from {2.m} to {3.m} without a neck, and from {4.m} to",
            [sized(b, row) for row in ("plain-fpn", "p2-plain-fpn", "laterals", "p2-laterals", FIRST)],
        ),
        Claim("and from {0.m} to {1.m} with a PST pyramid", [sized(b, row) for row in (FIRST, BOUND)]),
        Claim(
            "{0.m} to {1.m} with an FPN, where seeds differ by more, fell from {2.m} to {3.m} without a neck,"
            " and from {4.m} to {5.m}",
            [sized(v, row) for row in ("plain-fpn", "p2-plain-fpn", "laterals", "p2-laterals", FIRST, BOUND)],
        ),
        Claim("the FPN went from {0.m} to {1.m} there", [sized(v, row) for row in ("fpn", "p2-fpn")]),
        Claim("there, all sizes level", [ahead(v, "p2-fpn", "fpn")], level=True),
    ]


def segmentation() -> list[Claim]:
    ct = "camvid-trained"
    return [
        Claim(
            "a PST pyramid is {0.m} to {1.m} points ahead of an FPN",
            [lost("plain-fpn", FIRST), lost("p2-plain-fpn", BOUND)],
        ),
        Claim("it is {0.m} points ahead of PST on test", [on_test("laterals", FIRST)]),
        Claim("ahead of PST on test and level on val", [ahead("camvid", "laterals", FIRST)], level=True),
        Claim(
            "{0.m} ahead on test and {1.m} behind on val",
            [on_test("laterals", FIRST, ct), behind(ct, "laterals", FIRST)],
        ),
        Claim("level on test and {0.m} points behind on val", [behind("camvid", "p2-laterals", BOUND)]),
        Claim(
            "points behind on val, or, with the network trained, level on both",
            [ahead(ct, "p2-laterals", BOUND, split) for split in ("val", "test")],
            level=True,
        ),
        Claim("and {0.m} with it trained, from stride 4", [lost("p2-plain-fpn", BOUND, ct)]),
    ]


def torchvision() -> list[Claim]:
    return [
        Claim("and an FPN from stride 4 level with it", [ahead("bccd", "p2-laterals", "p2-plain-fpn")], level=True),
        Claim(
            "on photos, by {0.m} AP with the network frozen and {1.m} trained",
            [ahead("voc", "plain-fpn", FIRST), ahead("voc-trained", "plain-fpn", FIRST)],
        ),
        Claim("stride 4 FPN was {0.m} AP ahead ({0.i}), and", [ahead("bccd", "p2-plain-fpn", BOUND)], digits=2),
        Claim("and no neck {0.m} (pretrained)", [ahead("bccd", "p2-laterals", BOUND)]),
    ]


PAGES: dict[str, tuple[Callable[[], list[Claim]], int]] = {
    "docs/frozen.md": (frozen, 1),
    "docs/evidence.md": (evidence, 2),
    "README.md": (readme, 2),
    "docs/faq.md": (faq, 1),
    "docs/segmentation.md": (segmentation, 1),
    "docs/torchvision.md": (torchvision, 1),
}
