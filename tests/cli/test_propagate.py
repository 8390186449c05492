"""`pst propagate` as people run it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pst.cli import main
from pst.propagate import Setting
from tiny_clips import moving, patches, read_back, write_folder, write_mask, write_video

SMALL = ["--size", "64"]


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pst.propagate.network.BackboneFeatures", lambda *_, **__: Stand())
    clip = moving(4)
    write_video(clip, tmp_path / "clip.mp4")
    write_folder(clip, tmp_path / "frames")
    write_mask(clip.masks[0], tmp_path / "first.png")
    write_mask(clip.masks[3], tmp_path / "last.png")
    (tmp_path / "points.csv").write_text("frame,id,x,y\n0,nose,10,12\n")
    return clip


class Stand:
    """In place of the network."""

    def to(self, device):
        return patches


def test_a_clip(clip, tmp_path, capsys, caplog):
    argv = ["propagate", "clip.mp4", "--mask", "0=first.png", "--points", "points.csv", "--out", "runs/clip", *SMALL]
    assert main(argv) == 0
    out = capsys.readouterr()
    assert "runs/clip/sheet.jpg" in out.out
    assert "\r" not in out.err
    assert caplog.messages == [f"clip.mp4: {done} of 4 frames" for done in (1, 2, 3, 4)]  # no terminal, so no bar
    assert (read_back(tmp_path / "runs/clip/masks/000000.png") == clip.masks[0]).all()
    assert (tmp_path / "runs/clip/overlay.mp4").is_file()
    assert main(argv) == 0
    assert "finished already" in capsys.readouterr().out
    (tmp_path / "runs/clip/masks/000003.png").unlink()
    caplog.clear()
    assert main(argv) == 0
    assert caplog.messages == ["clip.mp4: goes on after 3 of 4 frames", "clip.mp4: 4 of 4 frames"]


def test_masks_of_a_folder_of_frames_by_number_and_name(clip, tmp_path):
    argv = [
        "propagate",
        "frames",
        "--mask",
        "f1=first.png",
        "--mask",
        "3=last.png",
        "--out",
        "out",
        *SMALL,
        "--no-video",
    ]
    assert main(argv) == 0
    assert (read_back(tmp_path / "out/masks/f4.png") == clip.masks[3]).all()
    assert not (tmp_path / "out/overlay.mp4").exists()


def test_settings_reach_the_run_and_others_need_overwrite(clip, tmp_path, capsys):
    argv = ["propagate", "clip.mp4", "--mask", "0=first.png", "--out", "out", "--no-video", *SMALL]
    more = ["--topk", "3", "--threshold", "0.9", "--memory", "0"]
    assert main([*argv, *more]) == 0
    assert 255 in read_back(tmp_path / "out/masks/000003.png")
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pst: error: ")
    assert all(part in error for part in ("topk (3, now", "threshold (0.9, now", "memory (0, now", "--overwrite"))
    assert main([*argv, "--overwrite"]) == 0


def test_many_clips_with_one_broken(clip, tmp_path, capsys):
    write_folder(clip, tmp_path / "clips/good")
    write_folder(clip, tmp_path / "clips/\x1b[31mbad<b>")
    write_mask(clip.masks[0], tmp_path / "masks/good/f1.png")
    argv = ["propagate", "clips", "--masks", "masks", "--out", "runs", "--no-video", *SMALL]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert "good: 4 frames" in said.out
    assert "1 of 2 clips" in said.out
    assert "\x1b" not in said.out + said.err
    assert "bad<b>: no folder of masks" in said.err
    assert "Traceback" not in said.err
    assert main(argv) == 1
    assert "good: finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none.mp4", "--mask", "0=first.png"], "no video or folder of images at none.mp4"),
        (["clip.mp4"], "no mask for clip.mp4"),
        (["clip.mp4", "--mask", "9=first.png"], "has no frame '9'"),
        (["clip.mp4", "--mask", "0=none.png"], "none.png"),
        (
            ["clip.mp4", "--masks", "nowhere"],
            "no folder of masks at nowhere: give one; a single mask is --mask 0=first.png at the shell",
        ),
        (["clip.mp4", "--mask", "0=first.png", "--mask", "0=last.png"], "two masks for frame 0"),
        (["clip.mp4", "--mask", "0=first.png", "--points", "none.csv"], "none.csv"),
        (["clip.mp4", "--mask", "0=first.png", "--size", "8"], "size must be"),
        (["clip.mp4", "--mask", "0=first.png", "--device", "nonsense"], "device 'nonsense'"),
        (["clip.mp4", "--mask", "0=first.png", "--weights", "none.pt"], "none.pt"),
        (["first.png", "--mask", "0=first.png"], "first.png is not a video"),
        ([".", "--mask", "0=first.png"], "holds images and videos"),
        (["several", "--mask", "0=first.png"], "give --masks DIR"),
        (["several"], "no masks for the clips"),
        (["several", "--masks", "nowhere"], "no folder of masks at nowhere"),
        (["empty", "--mask", "0=first.png"], "neither images nor videos"),
    ],
)
def test_a_mistake_is_one_line(argv, message, clip, tmp_path, capsys):
    write_folder(clip, tmp_path / "several/a")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(["propagate", *argv, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("pst: error: ")
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--features", "nonsense"], "nonsense"),
        (["--weights", "text.pt"], "text.pt is damaged or no checkpoint, download or save it again"),
    ],
)
def test_a_network_that_does_not_exist_leaves_nothing(option, said, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    assert main(["propagate", "clip.mp4", "--mask", "0=first.png", "--out", "out", *option]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mask", ["first.png", "=first.png", "0="])
def test_a_mask_without_its_frame(mask, clip, capsys):
    with pytest.raises(SystemExit):
        main(["propagate", "clip.mp4", "--mask", mask, "--out", "out"])
    assert "FRAME=PNG" in capsys.readouterr().err


def test_the_help_has_an_example_and_needs_no_heavy_import():
    code = (
        "import sys; from pst.cli import main\n"
        "try: main(['propagate', '--help'])\n"
        "except SystemExit: pass\n"
        "print('HEAVY', *sorted({'torch', 'timm', 'av', 'PIL', 'numpy', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--mask 0=first.png" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "HEAVY"


def test_the_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["propagate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name in ("topk", "size", "threshold", "memory"):
        [text] = re.findall(rf"(?<!\[)--{name} [A-Z] (.*?) --", said)
        assert text.endswith(f"({getattr(Setting(), name):g})")
