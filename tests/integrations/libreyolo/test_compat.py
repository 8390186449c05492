"""Without LibreYOLO, or with a version that is not tested, the adapter says so in one sentence."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys

import pytest


@pytest.mark.parametrize(
    ("found", "said"),
    [(None, "which is not installed"), ("1.5.0", "found 1.5.0"), ("1.60.0", "found 1.60.0"), ("2.0.0", "found 2.0.0")],
)
def test_one_sentence(found: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        assert name == "libreyolo"
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    for name in [name for name in sys.modules if name.startswith("pst.integrations.libreyolo")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ImportError, match=rf"needs libreyolo ≥ 1\.6 and < 1\.7, {said}: pip install .*\[libreyolo\]"
    ) as error:
        importlib.import_module("pst.integrations.libreyolo")
    assert "\n" not in str(error.value)
    monkeypatch.delitem(sys.modules, "pst.integrations.libreyolo.compat")  # it holds the other version
