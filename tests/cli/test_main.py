"""The frame: verbs, help, errors, exit codes."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pst
import pst.io.checkpoints
from pst.cli import build_parser, main
from pst.cli._common import host_errors
from pst.train.config import CONFIGS

PST = Path(sys.executable).with_name("pst")


def run_command(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PST), *args], capture_output=True, text=True, cwd=cwd, timeout=900, check=False)


@pytest.fixture
def raising(monkeypatch):
    """Make `pst info` raise the given error."""

    def install(error: BaseException) -> None:
        def hardware():
            raise error

        monkeypatch.setattr("pst.profile.environment.hardware", hardware)

    return install


def test_help_names_every_verb_and_needs_no_torch():
    code = "import sys; from pst.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
    for verb in ("demo", "yolo", "val", "info"):
        assert f"\n    {verb} " in result.stdout


VERBS = ("demo", "explore", "train", "val", "predict", "propagate", "reproduce", "export", "convert", "info", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_ends_with_examples_that_are_accepted(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    examples = capsys.readouterr().out.partition("\nexample")[2].splitlines()[1:]
    assert examples
    for example in examples:
        program, *arguments = shlex.split(example)
        assert (program, arguments[0]) == ("pst", verb)
        settings = verb == "train"  # key=value is not argparse's
        build_parser().parse_args([a for a in arguments if not (settings and "=" in a)])


def test_all_verbs_but_the_host_s_have_their_help_tested(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    listed = re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    assert set(listed) == {*VERBS, "yolo"}


def test_the_help_of_every_verb_begins_on_its_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for verb in (*VERBS, "yolo"):
        assert any(re.match(rf"    {verb}  +\S", line) for line in lines)
    assert max(map(len, lines)) <= 80


def test_help_of_the_installed_command_takes_well_under_a_second():
    run_command("--help")  # compiles the modules on the first run
    before = os.times().children_user
    assert run_command("--help").returncode == 0
    assert os.times().children_user - before < 0.5  # processor time: a busy machine must not fail this


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"pst {pst.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: VERB"),
        (["fly"], "invalid choice: 'fly'"),
        (["val", "--data", "d"], "required: --model"),
        (
            ["val", "--model", "m", "--data", "d", "--topk", "0,-4"],
            "--topk: expected integers ≥ 0 with commas between them, e.g. 0,4,8, got '0,-4'",
        ),
        (
            ["val", "--model", "m", "--data", "d", "--topk", "0,,4"],
            "--topk: expected integers ≥ 0 with commas between them, e.g. 0,4,8, got '0,,4'",
        ),
        (["val", "--model", "m", "--data", "d", "--fusion", "sum"], "expected gate, refine or gate,refine, got 'sum'"),
        (["demo", "--epochs", "0"], "--epochs: expected an integer ≥ 1, got '0'"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("k is odd"), FileNotFoundError("no best.pt"), ImportError("no timm")])
def test_an_error_of_the_library_is_one_line_and_exit_code_2(error, raising, capsys):
    raising(error)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == f"pst: error: {error}\n"


@pytest.mark.parametrize("argv", [["--debug", "info"], ["info", "--debug"]])
def test_debug_shows_the_traceback(argv, raising):
    raising(ValueError("k is odd"))
    with pytest.raises(ValueError, match="k is odd"):
        main(argv)


def test_an_error_of_another_kind_is_a_bug_which_is_said_below_its_traceback(raising, capsys):
    raising(KeyError("bug"))
    assert main(["info"]) == 70
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "KeyError: 'bug'"
    assert "bug of pst" in last
    assert "report" in last


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "a/b.yaml"), "a/b.yaml cannot be read: no permission; let your"),
        (
            PermissionError(13, "Permission denied", __file__),
            f"{__file__} cannot be read: no permission",
        ),
        (
            PermissionError(13, "Permission denied", f"{Path(__file__).parent}/none"),
            f"none cannot be written: no permission for {Path(__file__).parent};",
        ),
        (IsADirectoryError(21, "Is a directory", b"a/\xff"), "a/\\udcff: Is a directory"),
        (MemoryError(), "out of memory: make imgsz or batch smaller"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: make imgsz or batch smaller"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), "failed writing"),
        (OSError(), "OSError"),
    ],
)
def test_errors_of_the_system_are_one_sentence_too(error, said, raising, capsys):
    raising(error)
    assert main(["info"]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.startswith("pst: error: ")
    assert line.count("\n") == 1


def test_a_pipe_that_is_closed_ends_the_command_quietly():
    code = "import sys; from pst.cli import main; sys.exit(main(['info', '--models', 'cls']))"
    command = f'{sys.executable} -c "{code}" | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 141)


def test_errors_of_the_host_are_told_from_our_own():
    from ultralytics.utils import checks

    wrong: Any
    for wrong in ({"imgsz": "x" * 3}, {"imgsz": {}}):
        with pytest.raises(ValueError, match="Ultralytics cannot read x") as error, host_errors("read x"):
            checks.check_imgsz(**wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(KeyError), host_errors("read x"):
        pst.io.checkpoints.from_authors({})["none"]
    with pytest.raises(ImportError), host_errors("read x"):
        _missing()
    with pytest.raises(PermissionError), host_errors("read x"):
        checks.check_file(_Forbidden())


class _Forbidden:
    def __str__(self):
        raise PermissionError(13, "Permission denied", "x")


def _missing():
    raise ImportError("none")


def test_interrupt_exits_as_shells_expect(raising, capsys):
    raising(KeyboardInterrupt())
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "pst: interrupted\n"


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pst.train.fit", stop)
    assert main(["train", "classify", f"data={tmp_path}", f"out={tmp_path / 'run'}"]) == 130
    said = "pst: interrupted before anything was saved; the same command with --resume starts anew\n"
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["val", "--model", "best.pt", "--tokp", "8"],
            "there is no --tokp here: did you mean '--topk'? (pst val --help",
        ),
        (["train", "detect", "--epochs", "1"], "there is no --epochs here: settings are written without --, epochs=…"),
        (["train", "detect", "--resum"], "there is no --resum here: did you mean '--resume'? (pst train --help"),
        (["train", "detect", "--skip_corrupt"], "there is no --skip_corrupt here: did you mean '--skip-corrupt'?"),
        (["train", "detect", "--data", "d"], "there is no --data here: settings are written without --, data=…"),
        (["train"], "the following arguments are required: TASK (pst train --help"),
        (["val", "--modl", "best.pt"], "there is no --modl here: did you mean '--model'? (pst val --help"),
        (["val", "--modl=best.pt", "--topk", "0"], "there is no --modl=best.pt here: did you mean '--model'?"),
        (["val", "--dat", "d"], "the following arguments are required: --model"),
        (["convert", "--", "--modl"], "the following arguments are required: DST"),
        (["--nothing"], "there is no --nothing here (pst --help"),
        (["doctor", "x"], "there is no x here (pst doctor --help"),
        (
            ["train", "segment", "x"],
            "there is no x here: settings are KEY=VALUE, without spaces around the = (pst train",
        ),
        (["train", "segment", os.devnull], f"settings are written KEY=VALUE: a data set is given as data={os.devnull}"),
        (["propogate", "clip"], "argument VERB: invalid choice: 'propogate' (choose from "),
        ([], "the following arguments are required: VERB (pst --help"),
        (["propagate", "clip", "--topk", "-1"], "argument --topk: expected an integer ≥ 0, got '-1'"),
        (["reproduce", "coco", "--scale"], "argument --scale: expected one argument (pst reproduce coco --help"),
    ],
)
def test_a_wrong_option_is_one_sentence(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(f"pst: error: {message}")
    assert error.count("\n") == 1
    assert ("did you mean 'propagate'?" in error) == (argv[:1] == ["propogate"])


def test_no_setting_of_a_training_is_taken_for_a_flag(capsys):
    fields = {field.name for kind in CONFIGS.values() for field in dataclasses.fields(kind)} - {"skip_corrupt"}
    for name in fields:
        with pytest.raises(SystemExit, match="2"):
            main(["train", "detect", f"--{name}"])
        assert f"settings are written without --, {name}=…" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_the_first_line_of_help_has_every_option(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    listed = re.findall(r"^  (?:-h, )?(--[\w-]+)", rest, re.MULTILINE)
    assert listed
    assert [name for name in listed if f"[{name}" not in usage and name not in ("--help", *_required(verb))] == []
    assert "[-h]" in usage


def _required(verb: str) -> list[str]:
    return {"val": ["--model"], "predict": ["--model"], "export": ["--model"], "propagate": ["--out"]}.get(verb, [])


def test_the_installed_command_reports_a_missing_model_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    result = run_command("val", "--model", "none.pt", "--data", "none.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("pst: error: ")
    assert "none.pt" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_verb_has_a_handler_and_help():
    parser = build_parser()
    assert callable(parser.parse_args(["info"]).run)
    assert callable(parser.parse_args(["yolo"]).run)
    assert callable(parser.parse_args(["demo"]).run)


@pytest.mark.parametrize(
    "argv",
    [
        ["bench", "--device", "nope"],
        ["bench", "module", "--out", "FILE"],
        ["bench", "report", "--out", "FILE"],
        ["val", "--model", "FILE", "--data", "d"],
        ["val", "--model", "x.pt"],
        ["export", "--model", "FILE"],
        ["export", "--model", "none.pt", "--out", "FILE"],
        ["convert", "FILE", "x.pt"],
        ["study", "run", "FILE", "--data-root", "d", "--out", "FILE/x"],
        ["study", "report", "none.yaml", "--results", "d", "--out", "d"],
        ["study", "latency", "FILE", "--out", "o"],
        ["reproduce", "coco", "--scale", "n", "--data", "FILE", "--out", "o"],
        ["reproduce", "coco", "--scale", "n", "--out", "FILE"],
        ["demo", "--data", "/nope.yaml", "--out", "o"],
        ["demo", "--data", "FILE", "--out", "o"],
        ["demo", "--out", "FILE/x"],
        ["demo", "--device", "nope", "--out", "o"],
        ["train", "classify", "--config", "FILE"],
        ["train", "classify", "data=d", "--changed-data"],
        ["info", "--timm", "nope"],
        ["yolo", "val", "model=none.pt"],
        ["yolo", "fly"],
    ],
)
def test_a_wrong_file_ends_in_one_sentence_and_writes_nothing(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path.parent))
    (tmp_path / "FILE").write_text("- no\n- settings\n")
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("pst: error: ")
    assert "Traceback" not in lines
    assert [file.name for file in tmp_path.iterdir()] == ["FILE"]
