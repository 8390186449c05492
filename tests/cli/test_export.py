"""`pst export`: what it asks for, what it prints."""

import re
import shlex
from pathlib import Path

import pytest

from messages import says
from pst.cli import build_parser, main
from pst.cli._common import HostError, in_flags
from pst.export import FORMATS, Difference, check_request

exports = pytest.importorskip("pst.integrations.ultralytics.export", reason="the ultralytics extra is not installed")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Arguments of each call of stand-ins for export and verify, which write and compare nothing."""
    recorded: list[tuple[tuple[object, ...], dict[str, object]]] = []
    file = tmp_path / "best.onnx"
    file.write_bytes(bytes(1_250_000))

    def export(*args, **options):
        recorded.append((args, options))
        clamped = {"model.11.blocks.0.attn": 4} if options["imgsz"] == (64, 64) else {}
        topk = options["topk"] or 0
        return exports.Exported(
            file, str(args[1]), topk, "gate" if topk else "none", clamped, (96, 128), 1, bool(options["dynamic"])
        )

    monkeypatch.setattr(exports, "export", export)
    monkeypatch.setattr(exports, "verify", lambda *_, **__: Difference(0.000366, 0.0000035, 631.61))
    monkeypatch.setattr("pst.cli.export.require", lambda *_: None)
    return recorded


def test_defaults(calls):
    assert main(["export", "--model", "best.pt"]) == 0
    (args, options), *more = calls
    assert not more
    assert args == (Path("best.pt"), "onnx")
    nothing = dict.fromkeys(("imgsz", "topk", "fusion", "max_tokens", "data", "opset", "out"))
    assert options == {**nothing, "batch": 1, "dynamic": False, "half": False, "int8": False, "trust": False}


def test_options_are_handed_on(calls):
    text = (
        "--format openvino --topk 8 --fusion refine --max-tokens 16 --imgsz 96 128 --batch 4 --dynamic --int8 "
        "--data d.yaml --out here"
    )
    assert main(["export", "--model", "best.pt", *text.split()]) == 0
    args, options = calls[0]
    assert args[1] == "openvino"
    assert options["imgsz"] == (96, 128)
    assert (options["topk"], options["fusion"], options["batch"], options["data"]) == (8, "refine", 4, "d.yaml")
    assert options["dynamic"] is options["int8"] is True
    assert options["max_tokens"] == 16
    assert options["out"] == Path("here")


@pytest.mark.usefixtures("calls")
def test_says_what_was_written_and_how_far_it_is(capsys, tmp_path):
    main(["export", "--model", "best.pt", "--topk", "8", "--imgsz", "64", "--dynamic"])
    out = capsys.readouterr().out
    for part in ("8, fusion gate", "batch 1, 96×128 px, others too", "1.25 MB", str(tmp_path / "best.onnx")):
        assert part in out
    assert out.splitlines()[-1] == f"Next: pst yolo predict model={tmp_path / 'best.onnx'} source=IMAGE"
    assert re.search(says("model.11.blocks.0.attn … 4 coarse tokens … k is 4"), out)
    assert re.search(says("max 0.00037 … mean 3.5e-06 … 631.6"), out)


def test_a_map_of_classes_is_compared_as_one(calls, capsys, monkeypatch, tmp_path):
    done = exports.Exported(tmp_path / "best.onnx", "onnx", 8, "gate", {}, (64, 64), 1, False, 4, "semantic")
    monkeypatch.setattr(exports, "export", lambda *_, **__: done)
    monkeypatch.setattr(exports, "verify", lambda *_, **__: Difference(1.0, 0.0025, 1.0))
    assert main(["export", "--model", "best.pt"]) == 0
    out = capsys.readouterr().out
    assert "64×64 px, 4 channels" in out
    assert "0.25% of the pixels have another class" in out
    assert not calls


def test_says_which_layers_average_their_tokens(calls, capsys, monkeypatch, tmp_path):
    done = exports.Exported(tmp_path / "best.onnx", "onnx", 0, "none", {}, (64, 64), 1, False, max_tokens=16)
    for averaged, said in (({"model.14": 400}, "16 at most … model.14 (400)"), ({}, "16 at most … none at this size")):
        monkeypatch.setattr(exports, "export", lambda *_, own=averaged, **__: done._replace(averaged=own))
        assert main(["export", "--model", "best.pt", "--max-tokens", "16"]) == 0
        assert re.search(says(said), capsys.readouterr().out)
    assert not calls


@pytest.mark.usefixtures("calls")
def test_a_file_that_cannot_run_here_is_said_to_be_untried(capsys):
    main(["export", "--model", "best.pt", "--format", "coreml"])
    out = capsys.readouterr().out
    assert "not run      Core ML runs on macOS only" in out
    assert "compared" not in out


def test_the_examples_of_the_help_are_possible(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--help"])
    for example in capsys.readouterr().out.partition("\nexample")[2].splitlines()[1:]:
        args = build_parser().parse_args(shlex.split(example)[1:])
        names = ("topk", "max_tokens", "batch", "dynamic", "half", "int8", "data")
        asked = {name: value for name in names if (value := getattr(args, name)) is not None}
        assert check_request(args.format, **asked)


def test_choices_are_the_formats_there_are():
    from pst.cli.export import _FORMATS

    assert tuple(FORMATS) == _FORMATS


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--imgsz", "64", "64", "3"], "one side, or height and width, got 3"),
        (["--format", "ncnn", "--topk", "8"], "no checkpoint at best.pt"),
        (["--data", "nope.yaml"], "--data is for --int8, to calibrate with: add --int8, or leave --data nope.yaml out"),
    ],
)
def test_errors_end_with_two_and_one_line(capsys, monkeypatch, tmp_path, argv, message):
    pytest.importorskip("ultralytics", reason="the ultralytics extra is not installed")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--model", "best.pt", *argv]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("pst: error: ")
    assert message in err[-1]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("format", "asked", "said"),
    [
        ("onnx", {"int8": True}, "--int8 needs --data YAML, a data set"),
        ("ncnn", {"topk": 8}, "ncnn cannot run --topk 8, … export the coarse model, --topk 0"),
        ("torchscript", {"half": True}, "no FP16 for torchscript, … leave --half out"),
        ("onnx", {"half": True, "int8": True}, "--half and --int8 exclude each other"),
        ("onnx", {"dynamic": True, "max_tokens": 9}, "a dynamic onnx file cannot have --max-tokens 9"),
        ("onnx", {"dynamic": True, "max_tokens": 9}, "leave --dynamic or --max-tokens out"),
        ("coreml", {"dynamic": True}, "leave --dynamic out and set --imgsz and --batch"),
        ("coreml", {"batch": 4}, "got --batch 4: leave --batch out"),
    ],
)
def test_what_a_format_cannot_do_is_said_in_flags(format, asked, said, capsys, monkeypatch):
    monkeypatch.setattr(exports, "export", lambda *_, **__: check_request(format, **asked))
    assert main(["export", "--model", "best.pt"]) == 2
    assert re.search(says(said), capsys.readouterr().err)


def test_paths_and_what_the_host_says_keep_their_words():
    options = ["half", "batch", "dynamic", "data", "out"]
    said = "runs/half/best.pt and half.pt have no data: leave it out"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"), in_flags(options):
        raise ValueError(said)
    with pytest.raises(HostError, match="the batch is dynamic"), in_flags(options):
        raise HostError("the batch is dynamic")


def test_k_is_an_integer(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--model", "best.pt", "--topk", "-1"])
    assert "expected an integer ≥ 0, got '-1'" in capsys.readouterr().err
