"""One sentence, and no path of the server."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pst.explore.errors import sentence
from pst.io.image_file import read_rgb


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/srv/secret/run/best.pt is damaged", "best.pt is damaged"),
        ("no model at /srv/a b/x.pt", "x.pt"),
        (r"C:\Users\me\x.pt is damaged", "x.pt is damaged"),
        ("see https://example.org/a/b for 3/4 of it", "see https://example.org/a/b for 3/4 of it"),
        ("two\nlines", "two lines"),
    ],
)
def test_paths_are_taken_out(text, left):
    assert left in sentence(ValueError(text), [Path("/srv/a b")])
    assert "srv" not in sentence(ValueError(text), [Path("/srv/a b")])


def test_a_readers_message_keeps_the_name_alone(tmp_path):
    file = tmp_path / "no picture.png"
    file.write_bytes(b"nothing")
    with pytest.raises(OSError, match="decoded") as error:
        read_rgb(file)
    said = sentence(error.value, [tmp_path])
    assert said.startswith("no picture.png cannot be decoded")
    assert str(tmp_path) not in said


def test_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "x.png").read_bytes()
    assert sentence(error.value) == "x.png: No such file or directory"


def test_a_bug_is_said_to_be_one_and_logged(caplog):
    with caplog.at_level(logging.ERROR):
        said = sentence(AttributeError("'NoneType' object has no attribute 'x'"))
    assert "bug of pst" in said
    assert "NoneType" in caplog.text


def test_no_memory_is_said_plainly():
    assert "memory" in sentence(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 GB"))
