"""What the demo refuses before it writes anything."""

from __future__ import annotations

import pytest
from PIL import Image

from messages import says
from pst.demo.stages import check_data


@pytest.fixture
def data(tmp_path):
    (tmp_path / "set/images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "set/images/a.png")
    file = tmp_path / "set/data.yaml"
    file.write_text(f"path: {tmp_path / 'set'}\ntrain: images\nval: images\nnames: [cell]\n")
    return file


def test_a_data_set_that_is_none_is_refused_with_what_to_give(tmp_path, data):
    for given, message in (
        (tmp_path / "none.yaml", f"no data set YAML at {tmp_path / 'none.yaml'}: give the data.yaml"),
        (data.parent, f"no data set YAML at {data.parent}, which is a folder: give the data.yaml"),
    ):
        with pytest.raises(FileNotFoundError, match=says(message)):
            check_data(str(given), tmp_path / "out")


def test_a_data_set_where_the_demo_writes_is_refused(tmp_path, data):
    check_data(str(data), tmp_path / "out")
    check_data("coco8.yaml", tmp_path / "out")  # of Ultralytics; fetched when it is trained on
    with pytest.raises(ValueError, match=says("lies in … where the demo writes: choose another folder with --out")):
        check_data(str(data), data.parent)
