"""A headless Chromium, driven over ChromeDriver's HTTP interface (W3C WebDriver): no package is needed for that."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # of the WebDriver standard
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
)


def missing() -> str | None:
    """What is not installed, in words; None if a browser can be started."""
    browsers = ("chromium", "chromium-browser", "google-chrome")
    if shutil.which("chromedriver") is None or not any(map(shutil.which, browsers)):
        return "Chromium and ChromeDriver are not installed (Debian: chromium, chromium-driver)"
    return None


class Browser:
    """One window."""

    def __init__(self, url: str, session: str) -> None:
        self._url, self._session = url, session

    def _call(self, method: str, path: str, **values: Any) -> Any:
        return call(method, f"{self._url}/session/{self._session}{path}", values if method == "POST" else None)

    def open(self, address: str) -> None:
        self._call("POST", "/url", url=address)

    def resize(self, width: int, height: int) -> None:
        """The page's own size, not that of the window."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def tell(self, command: str, **params: Any) -> Any:
        """A command of Chrome's own protocol."""
        return self._call("POST", "/goog/cdp/execute", cmd=command, params=params)

    def run(self, script: str, *args: Any) -> Any:
        """JavaScript's result."""
        return self._call("POST", "/execute/sync", script=script, args=list(args))

    def find(self, css: str) -> list[str]:
        found = self._call("POST", "/elements", using="css selector", value=css)
        return [element[_ELEMENT] for element in found]

    def type(self, css: str, text: str) -> None:
        """Keys, or files for an input of files."""
        self._call("POST", f"/element/{self.find(css)[0]}/value", text=text)

    def drop(self, css: str, files: Sequence[Path]) -> None:
        self.type(f"{css} input[type=file]", "\n".join(map(str, files)))

    def press(self, css: str) -> None:
        self._call("POST", f"/element/{self.find(css)[0]}/click")

    def click(self, css: str, x: float, y: float) -> None:
        """At a place of an element, each from 0 to 1."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", css)
        left, top, width, height = self.run(
            "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [r.left, r.top, r.width, r.height]",
            css,
        )
        at = {"x": round(left + x * width), "y": round(top + y * height)}
        moves = [
            {"type": "pointerMove", "duration": 0, "origin": "viewport", **at},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._call("POST", "/actions", actions=[pointer])

    def text(self, css: str) -> str:
        return self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", css)

    def source(self, css: str) -> str:
        """Of a picture; "" where there is none."""
        return self.run("const e = document.querySelector(arguments[0]); return e ? e.src : ''", f"{css} img")

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """What the condition gives once that is true."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.1)
        return found

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A new browser with a new profile, which asks nobody but the page."""
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            url = f"http://127.0.0.1:{_port(driver)}"
            options = {"args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
            session = call("POST", f"{url}/session", {"capabilities": wanted})["sessionId"]
            try:
                yield Browser(url, session)
            finally:
                call("DELETE", f"{url}/session/{session}", None)
        finally:
            driver.terminate()
            driver.communicate(timeout=10)


def _port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise RuntimeError("ChromeDriver did not start")


def call(method: str, url: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as response:
            return json.load(response)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(json.load(error)["value"]["message"].splitlines()[0]) from error
