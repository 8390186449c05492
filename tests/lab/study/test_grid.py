"""Studies as grids of cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lab
from lab.study.grid import load_study
from lab.study.variants import ALL_TOKENS, k_order, ways

STUDIES = sorted((Path(lab.__file__).parent / "studies").glob("*.yaml"))
STUDY = """
runner: ultralytics
seeds: [0, 1]
data: {a: {path: a.yaml, evaluations: [{k: 0, imgsz: 640}]}}
models:
  plain: {yaml: plain.yaml}
  pst: {yaml: pst.yaml, evaluations: fine}
recipes: {one: {}, two: {fusion: refine}}
evaluations:
  fine:
    - {k: 0}
    - {k: [4, all], fusion: [gate, refine], selection: [mean, "random:1"]}
    - {k: 4, gate: 0.25, use: calibrated}
cells:
  - {data: a, model: [pst, plain], recipe: [one, two]}
"""


def write(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_cells_are_all_combinations_seeds_before_recipes(tmp_path):
    cells = load_study(write(tmp_path)).cells
    assert [c.id for c in cells] == [
        "a-pst-one-0", "a-plain-one-0", "a-pst-two-0", "a-plain-two-0",
        "a-pst-one-1", "a-plain-one-1", "a-pst-two-1", "a-plain-two-1",
    ]  # fmt: skip


def test_variants_are_named_by_what_differs_from_the_paper(tmp_path):
    pst_cell, plain = load_study(write(tmp_path)).cells[:2]
    assert [v.name for v in pst_cell.variants] == [
        "k0", "k4-gate", "k4-gate-random:1", "k4-refine", "k4-refine-random:1", "kM-gate", "kM-gate-random:1",
        "kM-refine", "kM-refine-random:1", "k4-gate-0.25-calibrated", "k0@640",
    ]  # fmt: skip
    assert pst_cell.variants[5].k == ALL_TOKENS
    assert [v.name for v in plain.variants] == ["k0"]


def test_k_may_be_given_for_each_layer(tmp_path):
    text = STUDY.replace("{k: 4, gate: 0.25, use: calibrated}", "{k: [8, [8, 0], [0, all], [4, 32]], fusion: refine}")
    variants = load_study(write(tmp_path, text)).cells[0].variants[-5:-1]
    assert [v.k for v in variants] == [8, (8, 0), (0, ALL_TOKENS), (4, 32)]
    assert [v.name for v in variants] == ["k8-refine", "k8,0-refine", "k0,M-refine", "k4,32-refine"]


def test_a_bound_on_the_tokens_is_named(tmp_path):
    text = STUDY.replace("- {k: 0}", "- {k: 0, max_tokens: [all, 16]}")
    text = text.replace(
        "{k: 4, gate: 0.25, use: calibrated}", "{k: 4, max_tokens: [9, all], fusion: refine, imgsz: 64}"
    )
    variants = load_study(write(tmp_path, text)).cells[0].variants
    assert [(v.name, v.max_tokens) for v in variants[:2]] == [("k0", None), ("k0-m16", 16)]
    assert [(v.name, v.max_tokens) for v in variants[-3:-1]] == [("k4-m9-refine@64", 9), ("k4-refine@64", None)]
    assert ways(dict.fromkeys(v.name for v in variants[-3:-1])) == {
        64: {"refine, 9 tokens": {"4": "k4-m9-refine@64"}, "refine": {"4": "k4-refine@64"}}
    }
    assert ways({"k0-m16": None}) == {}
    with pytest.raises(ValueError, match="max_tokens of an evaluation is a number from 1"):
        load_study(write(tmp_path, STUDY.replace("- {k: 0}", "- {k: 0, max_tokens: 0}")))


def test_names_tell_the_way_and_the_k():
    found = ways(dict.fromkeys(("k0", "k8-gate", "kM-refine-random:1", "k0,M-gate", "k8,0-gate@64", "k4,32-gate@64")))
    assert found == {
        None: {
            "gate": {"8": "k8-gate"}, "refine-random:1": {"M": "kM-refine-random:1"}, "gate (0, k)": {"M": "k0,M-gate"},
        },
        64: {"gate (k, 0)": {"8": "k8,0-gate@64"}, "gate": {"4,32": "k4,32-gate@64"}},
    }  # fmt: skip
    assert sorted(["M", "16", "8,32", "8"], key=k_order) == ["8", "8,32", "16", "M"]
    with pytest.raises(ValueError, match="'k8,-gate' is not a name of a variant"):
        ways({"k8,-gate": None})


def test_a_recipe_may_be_evaluated_in_another_way(tmp_path):
    text = STUDY.replace("two: {fusion: refine}", "two: {fusion: refine, evaluations: short}")
    text = text.replace("evaluations:\n  fine:", "evaluations:\n  short: [{k: 0}, {k: 2}]\n  fine:")
    variants = {(c.model, c.recipe): [v.name for v in c.variants] for c in load_study(write(tmp_path, text)).cells}
    assert variants["pst", "two"] == ["k0", "k2-gate", "k0@640"]
    assert len(variants["pst", "one"]) == 11
    assert variants["plain", "two"] == ["k0"]


def test_the_digest_tells_settings_apart(tmp_path):
    digests = {c.digest for c in load_study(write(tmp_path)).cells}
    changed = STUDY.replace("{path: a.yaml,", "{path: b.yaml,")
    assert len(digests) == 8
    assert digests.isdisjoint({c.digest for c in load_study(write(tmp_path, changed)).cells})


def test_the_content_of_a_model_file_is_noticed_and_its_comments_are_not(tmp_path):
    def digests() -> list[str | None]:
        return [c.model_digest for c in load_study(write(tmp_path)).cells[:2]]

    assert digests() == [None, None]  # models of Ultralytics' own have no file here
    (tmp_path / "pst.yaml").write_text("# first\nrows: [1, 2]\n")
    first = digests()
    assert first[0] is not None
    assert first[1] is None
    (tmp_path / "pst.yaml").write_text("rows: [1, 2] # the same\n")
    assert digests() == first
    (tmp_path / "pst.yaml").write_text("rows: [1, 3]\n")
    assert digests()[0] not in (None, first[0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("runner: ultralytics", "runner: other", "runner must be one of"),
        ("seeds: [0, 1]", "seed: [0, 1]", "unknown entries \\['seed'\\]"),
        ("model: [pst, plain]", "model: [pst, plane]", "plane in models"),
        ("model: [pst, plain]", "model: [pst, pst]", "listed twice"),
        ("recipe: [one, two]}", "recipe: one, epochs: 3}", "a cell needs"),
        ("use: calibrated", "use: folded", "use must be one of"),
        ("gate: 0.25", "gait: 0.25", "an evaluation has \\['gait'\\]"),
        (
            "k: 4, gate",
            "k: [[8, 8]], gate",
            r"k of an evaluation is \[8, 8\] for its attention layers",
        ),
        ("k: 4, gate", "k: [[0]], gate", r"k of an evaluation is \[0\] for its attention layers"),
        ("k: 4, gate", "k: [[-1, 0]], gate", 'k of an evaluation is a number from 0, "all", or a list .*got -1'),
        ("k: 4, gate", "k: most, gate", "got 'most'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, old, new, message):
    assert old in STUDY
    with pytest.raises(ValueError, match=message):
        load_study(write(tmp_path, STUDY.replace(old, new)))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_committed_studies_load_with_three_seeds_of_everything(path):
    """What has fewer is completed by the study of the same name in ``larger``, which nobody has run."""
    more = path.parent / "larger" / path.name
    by_training = {}
    for study in [load_study(p) for p in (path, more) if p.is_file()]:
        assert study.comparisons
        for cell in study.cells:
            by_training.setdefault((cell.data, cell.model, cell.recipe), []).append(cell.seed)
            names = [v.name for v in cell.variants]
            assert len(names) == len(set(names))
            assert names[0] == "k0"
            assert cell.model_digest is not None or "yaml" not in cell.settings["models"]
    least = 1 if path.stem == "vit" else 3  # that one asks whether anything learns, and compares nothing
    assert all(len(seeds) == len(set(seeds)) >= least for seeds in by_training.values())


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_cell_of_the_committed_studies_has_a_result(path):
    results = path.parents[1] / "results" / "study"
    for cell in load_study(path).cells:
        assert cell.made(json.loads((results / f"{cell.id}.json").read_text())), cell.id


def test_the_committed_studies_are_there():
    names = {"classification", "detection", "segmentation", "torchvision"}
    bounded = {"bounded-segmentation", "bounded-detection"}
    smaller = {"classification-64", "detection-160", "segmentation-160"}
    assert {p.stem for p in STUDIES} == {*names, *smaller, *bounded, "levels", "retrieval", "vit"}
    assert {p.stem for p in (STUDIES[0].parent / "larger").glob("*.yaml")} == names
