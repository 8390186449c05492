"""A path holds the old file or the whole new one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from messages import says
from pst.io.files import (
    WriteError,
    check_file,
    check_folder,
    check_ours,
    check_space,
    explained,
    read_json,
    replacing,
    write_bytes,
    write_text,
)


def test_text_and_bytes_arrive_whole_in_a_new_folder(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "σ\n")
    write_bytes(tmp_path / "new" / "b.bin", b"\0\1")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "σ\n".encode()
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\0\1"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.txt", "b.bin"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted():
        with replacing(path) as part:
            part.write_text("ne")
            assert path.read_text() == "old"
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(type(path), "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError, match="taken"):
        write_text(tmp_path / "taken" / "a.txt", "new")


def a_dead_process() -> int:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(done.stdout)


def killed_while_writing(path: Path) -> str:
    """Name of what a process leaves that is killed in the middle of a write."""
    code = (
        "import os, signal, sys; from pst.io.files import replacing\n"
        "with replacing(sys.argv[1]) as part:\n"
        "    part.write_text('half'); (part.parent / '.tmpX').write_text('of a library')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    (name,) = (p.name for p in path.parent.iterdir() if p.name.endswith(".part"))
    return name


def test_what_a_killed_process_left_goes_with_the_next_write_to_the_folder(tmp_path):
    name = killed_while_writing(tmp_path / "a.txt")
    assert name.startswith(".a.txt.")
    write_text(tmp_path / "b.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_parts_of_living_processes_stay(tmp_path):
    name = killed_while_writing(tmp_path / "a.txt")
    alive = tmp_path / re.sub(r"\.\d+\.part$", f".{os.getppid()}.part", name)
    (tmp_path / name).rename(alive)
    with replacing(tmp_path / "slow.txt") as slow:  # our own, in another thread say
        slow.write_text("slow")
        write_text(tmp_path / "b.txt", "new")
    assert alive.exists()
    assert (tmp_path / "slow.txt").read_text() == "slow"


def test_our_own_number_may_have_been_a_dead_process_of_before(tmp_path):
    name = killed_while_writing(tmp_path / "a.txt")
    (tmp_path / name).rename(tmp_path / re.sub(r"\.\d+\.part$", f".{os.getpid()}.part", name))
    write_text(tmp_path / "b.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("name", [".a.txt.{}.part", ".a.txt.00000000.0.{}.part"])
def test_parts_of_other_machines_and_of_earlier_versions_go_after_a_day(name, tmp_path):
    part = tmp_path / name.format(a_dead_process())
    part.write_text("half")
    write_text(tmp_path / "b.txt", "new")
    assert part.exists()
    yesterday = time.time() - 25 * 3600
    os.utime(part, (yesterday, yesterday))
    write_text(tmp_path / "b.txt", "new")
    assert not part.exists()


def test_files_of_other_programs_stay(tmp_path):
    for name in (".hidden", "film.part", ".film.part", "a.00000000.0.1.part"):
        (tmp_path / name).write_text("theirs")
        os.utime(tmp_path / name, (0, 0))
    write_text(tmp_path / "b.txt", "new")
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_of_many_files_is_not_looked_through_at_every_write(tmp_path, monkeypatch):
    for i in range(500):
        (tmp_path / str(i)).touch()
    looks = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looks.append(folder) or scandir(folder))
    for _ in range(12):
        write_text(tmp_path / "a.txt", "")
    assert looks.count(tmp_path) == 2


def test_a_folder_and_the_longest_of_names_can_be_written(tmp_path):
    with replacing(tmp_path / "folder") as part:
        part.mkdir()
        (part / "a").write_text("inside")
    assert (tmp_path / "folder" / "a").read_text() == "inside"
    for name in ("x" * 255, "ü" * 127, "a b%\n'\".txt"):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    assert len(list(tmp_path.iterdir())) == 4


def test_threads_may_write_one_file(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_text(tmp_path / "a.txt", str(i) * 10_000), [*range(8)] * 5))
    assert len(set((tmp_path / "a.txt").read_text())) == 1
    assert len(list(tmp_path.iterdir())) == 1


WRITERS = {
    "bytes": "write_bytes(path, bytes(2_000_000))",
    "text": "write_text(path, 'x' * 2_000_000)",
    "torch": "import torch\nwith replacing(path) as part: torch.save({'w': torch.zeros(500_000)}, part)",
    "safetensors": (
        "import torch; from pst.io.checkpoints import save_safetensors\n"
        "save_safetensors({'w': torch.zeros(500_000)}, path, {})"
    ),
    "pillow": (
        "import numpy; from PIL import Image\nimage = numpy.random.default_rng(0).integers(0, 255, (1000, 1000, 3))\n"
        "with replacing(path) as part: Image.fromarray(image.astype('uint8')).save(part, format='PNG')"
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_that_names_the_file_and_the_old_one_stays(writer, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import resource, signal; from pathlib import Path; from pst.io.files import *\n"
        "import torch, numpy, pst.io.checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        f"path = Path({str(path)!r})\ntry:\n  exec({WRITERS[writer]!r})\nexcept WriteError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}: ")
    assert done.stdout.count("\n") == 1
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_inside_the_block_are_not_taken_for_a_full_disk(tmp_path):
    for error in (RuntimeError("half way"), FileNotFoundError(2, "No such file", "source.txt"), ValueError("no")):
        with pytest.raises(type(error)) as caught, replacing(tmp_path / "a.txt"):
            raise error
        assert caught.value is error
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    with pytest.raises(WriteError, match=r"cannot write .*folder: "):
        write_text(tmp_path / "folder", "text")


def test_space_is_checked_where_the_files_will_lie(tmp_path):
    check_space(tmp_path / "not" / "yet", 1000)
    with pytest.raises(WriteError, match="not/yet needs 1,000,000,000,000 MB"):
        check_space(tmp_path / "not" / "yet", 10**18)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "file/a/b", "loop", "loop/a"):
        with pytest.raises(NotADirectoryError, match=name.partition("/")[0]):
            check_folder(tmp_path / name)


def test_what_is_no_file_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a").touch()
    os.mkfifo(tmp_path / "pipe")
    assert check_file(str(tmp_path / "a"), "image") == tmp_path / "a"
    for name in ("none", "pipe"):
        with pytest.raises(FileNotFoundError, match=says(f"no image at {tmp_path / name}: check the path")):
            check_file(tmp_path / name, "image")
    with pytest.raises(FileNotFoundError, match=says(f"no image at {tmp_path}, which is a folder: give a file in it")):
        check_file(tmp_path, "image")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r": write one$"):
            check_file(path, "image", "write one")


def test_only_files_of_ours_are_replaced(tmp_path):
    check_ours(tmp_path / "none", "mark")
    write_text(tmp_path / "ours", "mark")
    check_ours(tmp_path / "ours", "mark")
    write_text(tmp_path / "theirs", "x" * 70_000 + "mark")
    with pytest.raises(FileExistsError, match="theirs"):
        check_ours(tmp_path / "theirs", "mark")
    with pytest.raises(FileExistsError, match="is a folder"):
        check_ours(tmp_path, "mark")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "[" * 100_000, "\ud800"])
def test_a_damaged_result_is_named(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("size mismatch\n\tat line 3"), "a.pt cannot be built: RuntimeError: size mismatch"),
        (KeyError("nc"), "a.pt cannot be built: KeyError: 'nc'"),
        (AssertionError(), "a.pt cannot be built: AssertionError"),
    ],
)
def test_what_another_library_raises_becomes_one_sentence(error, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$") as told, explained("a.pt cannot be built"):
        raise error
    assert told.value.__cause__ is error


def test_what_is_one_sentence_already_passes_or_goes_without_its_type():
    own = ValueError("b.pt holds no weights")
    with pytest.raises(ValueError, match=r"^b\.pt holds no weights$"), explained("a.pt cannot be built"):
        raise own
    with pytest.raises(ValueError, match=r"^a\.pt: b\.pt holds no weights$"), explained("a.pt", passing=()):
        raise own
