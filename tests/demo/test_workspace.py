"""The output folder: claimed, kept, refused, cleared."""

import pytest

from pst.demo.settings import Settings
from pst.demo.workspace import Workspace

SETTINGS = Settings(data=None, imgsz=64, epochs=1, batch=4, device="cpu", seed=0)


def test_the_same_settings_may_claim_a_folder_again(tmp_path):
    workspace = Workspace(tmp_path / "out")
    workspace.claim(SETTINGS, restart=False)
    workspace.best.write_text("trained")
    workspace.claim(SETTINGS, restart=False)
    assert workspace.best.read_text() == "trained"


def test_restart_deletes_what_a_demo_left_and_nothing_else(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.claim(SETTINGS, restart=False)
    for file in (workspace.best, workspace.last, workspace.trained, workspace.report, workspace.curves):
        file.parent.mkdir(exist_ok=True)
        file.write_text("old")
    workspace.rows.mkdir()
    workspace.digits.mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    other = Settings(data=None, imgsz=64, epochs=2, batch=4, device="cpu", seed=0)
    workspace.claim(other, restart=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "settings.json"]
    workspace.claim(other, restart=False)  # and it is the new run's now


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, restart):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no demo: choose another folder with --out"):
        Workspace(tmp_path).claim(SETTINGS, restart=restart)
    assert (tmp_path / "train" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "settings.json").exists()


@pytest.mark.parametrize(("name", "value"), [("imgsz", 32), ("epochs", 0), ("batch", 0), ("seed", -1)])
def test_a_number_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be ≥ .*, got {value}"):
        Settings(**{"data": None, "imgsz": 64, "epochs": 1, "batch": 4, "device": "cpu", "seed": 0, name: value})
