"""The page, served by the command in a process of its own: gradio leaves sockets and threads behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LEGACY = Path(__file__).parents[1] / "legacy"


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `pst explore` answers; it was told to give out every file, as far as an environment variable can."""
    pytest.importorskip("gradio", reason="gradio is not installed: the extra explore")
    pytest.importorskip("ultralytics")
    models = [LEGACY / name for name in ("yolo.pt", "layer.pt", "run")]
    command = [sys.executable, "-m", "pst", "explore", *models, "--no-browser"]
    server = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, cwd=tmp_path_factory.mktemp("explore"),
        env={**os.environ, "GRADIO_ALLOWED_PATHS": "/"},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        found = next((match for line in lines if (match := re.search(r"http://\S+", line))), None)
        assert found is not None, "the server did not start"
        yield found[0]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0  # Ctrl+C is its usual end
        assert server.stdout is not None
        server.stdout.close()
