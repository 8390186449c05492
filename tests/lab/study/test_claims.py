"""Claims on cells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from lab.study import claims
from lab.study.claims import Claim, running


def test_one_of_two_gets_it_and_the_other_when_it_is_released(tmp_path):
    first, second = Claim(tmp_path, "cell"), Claim(tmp_path, "cell")
    assert first.acquire()
    assert not second.acquire()
    with first:
        assert first.held()
        assert not second.held()
    assert not list(tmp_path.iterdir())
    assert second.acquire()


def test_a_claim_of_a_process_that_ended_is_free(tmp_path):
    code = "import pathlib, sys; from lab.study.claims import Claim; Claim(pathlib.Path(sys.argv[1]), 'cell').acquire()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "cell.json").is_file()
    assert Claim(tmp_path, "cell").acquire()


def test_a_claim_of_another_machine_is_free_after_its_last_sign_of_life(tmp_path, monkeypatch):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "note": ""}))
    assert not Claim(tmp_path, "cell").acquire()
    old = time.time() - claims.EXPIRY - 5
    os.utime(path, (old, old))
    assert Claim(tmp_path, "cell").acquire()


def test_a_held_claim_shows_life_and_its_note(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    claim = Claim(tmp_path, "cell")
    assert claim.acquire()
    old = time.time() - 60
    with claim:
        os.utime(claim.path, (old, old))
        claim.note = "epoch 3/40"
        end = time.monotonic() + 120
        while running(tmp_path) != {"cell": "epoch 3/40"}:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert claim.age() < 30


def test_one_who_lost_a_claim_leaves_the_new_owners_alone(tmp_path):
    claim = Claim(tmp_path, "cell")
    assert claim.acquire()
    with claim:
        claim.path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs", "note": ""}))
        assert not claim.held()
    assert claim.path.is_file()


def test_of_many_that_take_over_one_wins(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "note": ""}))
    old = time.time() - 2 * claims.EXPIRY
    os.utime(path, (old, old))
    assert sum(Claim(tmp_path, "cell").acquire() for _ in range(8)) == 1


@pytest.mark.parametrize("content", ["", "{"])
def test_a_claim_that_is_just_being_written_is_respected(tmp_path, content):
    (tmp_path / "cell.json").write_text(content)
    assert not Claim(tmp_path, "cell").acquire()
    assert running(tmp_path) == {}
