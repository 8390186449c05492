"""What goes into a file or pipe holds no control characters."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest

from pst.cli._plain import Plain, plain_output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain(*texts: str, kind: type[io.StringIO] = io.StringIO) -> str:
    out = kind()
    stream = Plain(out)
    for text in texts:
        stream.write(text)
    stream.finish()
    return out.getvalue()


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["a\n", "b\n"], "a\nb\n"),
        (["\x1b[34m\x1b[1mtrain: \x1b[0mdone\n"], "train: done\n"),
        (["\r\x1b[K10%", "\r\x1b[K55%", "\r\x1b[K100%", "\n", "next\n"], "100%\nnext\n"),
        (["\r\x1b[K10%", "\r\x1b[K", "next\n"], "next\n"),
        (["10%\r", "20%\r", "\n"], "20%\n"),
        (["a\r\nb\r\n"], "a\nb\n"),
        (["a\r", "\nb\n"], "a\nb\n"),
        (["half \x1b[3", "4mblue\x1b[0m\n"], "half blue\n"),
        (["no end"], "no end"),
        (["bell\x07 back\x08 tab\tü 画 📦\n"], "bell back tab\tü 画 📦\n"),
        (["\x1b]0;title\x07text\n"], "text\n"),
        (["", "\n", "\n\n"], "\n\n\n"),
    ],
)
def test_only_what_is_seen_at_last_is_written(texts, wanted):
    assert plain(*texts) == wanted
    assert plain(*"".join(texts)) == wanted  # character by character


def test_a_long_bar_takes_no_memory():
    stream = Plain(io.StringIO())
    for i in range(10_000):
        stream.write(f"\r{i:>50}")
    assert len(stream._held) < 200


def test_a_terminal_without_colours_keeps_its_progress_bars():
    assert plain("\r\x1b[K\x1b[34m10%\x1b[0m", kind=Terminal) == "\r\x1b[K10%"


def test_streams_come_back_and_have_all_that_they_had(monkeypatch):
    before = io.StringIO()
    monkeypatch.setattr(sys, "stdout", before)
    with plain_output():
        assert sys.stdout is not before
        assert not sys.stdout.isatty()
        assert before.getvalue() == ""
        with plain_output():
            sys.stdout.write("\x1b[1mbold")
    assert sys.stdout is before
    assert before.getvalue() == "bold"


def test_a_terminal_is_left_alone_unless_no_color_is_set(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with plain_output():
        assert sys.stdout is terminal
    monkeypatch.setenv("NO_COLOR", "1")
    with plain_output():
        assert sys.stdout is not terminal


def test_without_a_console_there_is_nothing_to_do(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with plain_output():
        assert sys.stdout is None


def test_ultralytics_output_in_a_pipe_is_plain(tmp_path):
    code = (
        "import sys; from pst.cli._plain import plain_output\n"
        "with plain_output():\n"
        "    from ultralytics.utils import LOGGER, TQDM, colorstr\n"
        "    LOGGER.info(colorstr('train: ') + 'begins')\n"
        "    for _ in TQDM(range(3), desc='bar'): pass\n"
        "    import tqdm\n    for _ in tqdm.tqdm(range(3)): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    text = done.stdout + done.stderr
    assert "train: begins" in text
    assert "bar: 100%" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_names_that_are_no_text_can_be_printed(tmp_path):
    code = "from pst.cli._plain import plain_output\nwith plain_output():\n    print('a\\udcff.png →')"
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
        assert done.stdout.startswith(b"a\\udcff.png ")


def test_logging_goes_through(monkeypatch):
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    with plain_output():
        handler = logging.StreamHandler(sys.stdout)
        handler.emit(logging.makeLogRecord({"msg": "\x1b[31mred"}))
    assert out.getvalue() == "red\n"
