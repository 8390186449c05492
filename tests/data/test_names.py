"""Names of classes, the same rules in every reader."""

from __future__ import annotations

import pytest

import tiny_data
from pst.data.folder import read_folder
from pst.data.masks import read_masks
from pst.data.text import checked_names
from pst.io.names import listed


def test_names_are_text_as_written():
    assert checked_names(["red", 5, 1.5, "kühl", " a b"], "x") == ("red", "5", "1.5", "kühl", " a b")


@pytest.mark.parametrize("name", ["", "  ", None, True, ["a"], "a\nb", "\x1b[31m", "\u202ea"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"classes\.txt has the class name .* expected printable text"):
        checked_names(["red", name], "classes.txt")


@pytest.mark.parametrize(("one", "other"), [("cat", "cat"), ("cat", "Cat"), ("ice cream", "icecream"), ("a", " a")])
def test_two_names_that_are_mixed_up_are_refused(one, other):
    with pytest.raises(ValueError, match=f"the classes {one!r} and {other!r}"):
        checked_names([one, "dog", other], "classes.txt")


def test_folders_and_masks_ask_for_the_same(tmp_path):
    folders, masks = tiny_data.folder(tmp_path / "folders"), tiny_data.masks(tmp_path / "masks")
    (folders / "train" / "green").rename(folders / "train" / "Red")
    with pytest.raises(ValueError, match="the classes 'Red' and 'red'"):
        read_folder(folders, "train")
    (masks / "classes.txt").write_text("ground\nred\ngreen\nGROUND\n")
    with pytest.raises(ValueError, match=r"classes\.txt has the classes 'ground' and 'GROUND'"):
        read_masks(masks, "train")


def test_names_of_any_length_give_a_short_sentence():
    with pytest.raises(
        ValueError, match=r"^here has the classes 'x+…? and 'X+…?: give each a name of its own$"
    ) as error:
        checked_names(["x" * 5000, "X" * 5000], "here")
    assert len(str(error.value)) < 300
    assert len(listed(["x" * 5000] * 20)) < 600


def test_two_files_of_one_name_are_refused_where_one_is_wanted(tmp_path):
    root = tiny_data.masks(tmp_path)
    (root / "images" / "other.jpg").write_bytes(b"")
    (root / "images" / "other.png").write_bytes(b"")
    assert len(read_masks(root, "train").images) == 8
    for kind in ("masks", "images"):
        (root / kind / "train0.bmp").write_bytes(b"")
        with pytest.raises(ValueError, match=rf"{kind}/train0\.bmp and .*train0\.png have one name"):
            read_masks(root, "train")
