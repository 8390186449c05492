"""Serving the page on this machine: nothing is fetched or told, and no file but the page's own is given out."""

# pyright: reportMissingImports=false
# gradio is in no extra but `explore`

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pst.explore.address import LOOPBACK
from pst.explore.clip import MOST_BYTES
from pst.explore.explorer import Explorer
from pst.explore.page import CSS, FONT, build_page

_WAITING = 16  # jobs of all visitors
_CLOSED: dict[str, Any] = {  # what gradio would offer beside the page
    "allowed_paths": [],
    "share": False,
    "show_error": False,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "mcp_server": False,
    "pwa": False,
    "ssr_mode": False,
    "num_workers": 0,
    "strict_cors": True,
    "prevent_thread_lock": True,
    "quiet": True,
}
# whatever a script of the page wants, the browser asks this server alone
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Headers:
    """Adds `_HEADERS` to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        await self.app(scope, receive, answer)


@contextmanager
def served(
    explorer: Explorer, *, host: str = "127.0.0.1", port: int | None = None, open_browser: bool = False
) -> Iterator[str]:
    """Serve the page inside the with block; yields its address.

    Args:
        explorer: What the page shows.
        host: Address to listen at.
        port: None takes the first free one from 7860 on.
        open_browser: Whether the browser opens it.

    Raises:
        OSError: No port is free; see `pst.explore.address.check_address` for what is to be asked before.
    """
    with tempfile.TemporaryDirectory(prefix="pst-explore-") as folder:
        _quiet(Path(folder), host)
        page = build_page(explorer)
        page.queue(max_size=_WAITING, default_concurrency_limit=1)
        hosts = list(LOOPBACK) if host in LOOPBACK else ["*"]  # no name that is made to lead here, by DNS
        middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(Headers)]
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            css=CSS,
            theme=gr.themes.Default(font=FONT),
            max_file_size=MOST_BYTES,
            state_session_capacity=_WAITING,
            app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None, "openapi_url": None},
            **_CLOSED,
        )
        try:
            yield str(page.local_url)
        finally:
            page.close(verbose=False)
            explorer.close()


def _quiet(folder: Path, host: str) -> None:
    """Settings of gradio that are environment variables: where dropped files lie, and none that opens more."""
    os.environ.update({"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder)})
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_ROOT_PATH", "GRADIO_SHARE"):
        os.environ.pop(name, None)
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks itself whether it is there
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))
