"""YAML files: plain mappings, whatever is in them read or refused in a moment."""

from __future__ import annotations

import pytest

from pst.data.yaml_file import read_mapping


def read(tmp_path, content, **options):
    (tmp_path / "a.yaml").write_text(content)
    return read_mapping(tmp_path / "a.yaml", **options)


def test_values_are_typed_or_as_they_are_written(tmp_path):
    text = "names: [yes, no, 1, 2020-01-01, 007, 1e3, 'on', null]\npath:\n0: a\n"
    assert read(tmp_path, "a: 1\nb: [true, 0.5, text, null]\n") == {"a": 1, "b": [True, 0.5, "text", None]}
    assert read(tmp_path, text, text=True) == {
        "names": ["yes", "no", "1", "2020-01-01", "007", "1e3", "on", "null"],
        "path": "",
        "0": "a",
    }


def test_aliases_and_merges_are_plain_values(tmp_path):
    text = "base: &b {lr: 1, seed: 2}\nrun: {<<: *b, lr: 3}\nother: *b\n"
    assert read(tmp_path, text)["run"] == {"lr": 3, "seed": 2}


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100,000 values"),
        ("a: &a [*a]\n", "a value that holds itself, line 1"),
        ("a: " + "[" * 5000 + "]" * 5000, "more than 20 levels, line 1"),
        ("a:\n" + "".join(" " * i + "- \n" for i in range(1, 100)), "is not YAML|more than 20 levels"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' twice, line 3"),
        ("a: {b: 1, b: 2}\n", "the key 'b' twice, line 1"),
        ("a: [1, 2\nb: }\n", "is not YAML"),
        ("a: 2020-99-99\n", "is not YAML"),
        ("? [1, 2]\n: 3\n? {a: 1}\n: 2\n", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        ("!!python/object/new:dict {a: 1}\n", "is not YAML"),
        ("- 1\n", "must hold `key: value` lines, it holds a list"),
        ("", "it holds nothing"),
        ("a: " + "x" * (1 << 20), "a.yaml has 1,048,579 bytes, more than 1,048,576"),
        ("a: \0\n", "UTF-16 or no text"),
        ("a: \7\n", "is not YAML"),
    ],
    ids=range(16),
)
@pytest.mark.parametrize("text_only", [False, True])
def test_what_is_no_plain_mapping_is_one_sentence(tmp_path, text, message, text_only):
    if text_only and "2020" in text:
        return  # text like any other
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text, text=text_only)
    assert "a.yaml" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
