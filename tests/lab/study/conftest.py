"""What the tests of cells on the Ultralytics host share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_data


@pytest.fixture
def registered() -> Iterator[None]:
    """The plugin switched on for one test, and off again."""
    from pst.integrations.ultralytics import register, unregister

    register()
    yield
    unregister()


@pytest.fixture(scope="session")
def boxes_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of eight images for each split."""
    return tiny_data.squares(tmp_path_factory.mktemp("boxes"))
