"""What the server gives out and lets in."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest

import pst.explore

pytestmark = pytest.mark.slow  # gradio takes many seconds to import


def ask(what: str | urllib.request.Request, **headers: str) -> tuple[int, dict[str, str], bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(what, headers=headers) if isinstance(what, str) else what
    try:
        with opener.open(request) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_it_listens_on_this_machine_alone(address):
    assert address.startswith("http://127.0.0.1:")


def test_the_page_names_no_other_server(address):
    status, headers, _ = ask(address)
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    status, _, content = ask(f"{address}config")
    config = json.loads(content)
    assert status == 200
    assert config["analytics_enabled"] is False
    assert config.get("share_url") is None
    assert not [sheet for sheet in config.get("stylesheets") or [] if "://" in sheet]


def test_another_host_name_is_refused(address):
    assert ask(address, Host="evil.example")[0] == 400
    assert ask(address, Host=f"localhost:{address.rsplit(':', 1)[1].strip('/')}")[0] == 200


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "~/.bashrc"])
def test_no_file_of_the_machine_is_given_out(address, path):
    assert ask(f"{address}gradio_api/file={path}")[0] in (400, 403, 404)
    assert ask(f"{address}gradio_api/file={Path(__file__)}")[0] in (400, 403, 404)


def test_gradio_writes_nothing_beside_the_source(address):
    assert address
    assert not list(Path(pst.explore.__file__).parent.glob("*.pyi"))


def test_no_function_is_public(address):
    status, _, content = ask(f"{address}gradio_api/info")
    assert status != 200 or not json.loads(content)["named_endpoints"]


def test_too_large_a_file_is_refused(address):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(65 * 2**20)
    request = urllib.request.Request(
        f"{address}gradio_api/upload", body + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert ask(request)[0] == 413


def test_an_address_in_place_of_a_file_is_not_fetched(address):
    """A server of the test's own would see the request."""
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    config = json.loads(ask(f"{address}config")[2])
    files = part_of(config, "files")
    drop = next(d for d in config["dependencies"] if [files, "change"] in d["targets"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.png"
        file = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
        events = send(address, config, drop, {files: [file]})
        server.shutdown()
    assert "addresses are not fetched" in str(events)
    assert not asked


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("layer", value) for value in ("no.such.layer", 3, [[]], {})),
        *(("head", value) for value in (7, -1, "x", [0])),
        *(("frame", value) for value in (10**30, -5, "x")),
        *(("topk", value) for value in (10**30, -5, 2.5, None, "x", {})),
        *(("max_tokens", value) for value in (10**30, -5, "x")),
        *(("fusion", value) for value in ("none", None, {})),
        *(("selection", value) for value in ("none", None, {})),
        *(("model", value) for value in ("none", None, {})),
        *(("kind", value) for value in ("none", None)),
    ],
)
def test_any_value_is_answered(address, part, value):
    """It may be one of the model before."""
    config = json.loads(ask(f"{address}config")[2])
    topk = part_of(config, "topk")
    moved = next(d for d in config["dependencies"] if [topk, "input"] in d["targets"])
    events = send(address, config, moved, {part_of(config, part): value})
    last = next(e for e in events if e["msg"] == "process_completed")
    assert last["success"], last
    assert "bug of pst" not in json.dumps(last)


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}, {"meta": {}}])
def test_a_file_that_was_not_dropped_is_not_read(address, meta):
    config = json.loads(ask(f"{address}config")[2])
    files = part_of(config, "files")
    drop = next(d for d in config["dependencies"] if [files, "change"] in d["targets"])
    path = {"path": str(Path(__file__)), **meta}
    last = next(e for e in send(address, config, drop, {files: [path]}) if e["msg"] == "process_completed")
    assert not last["success"]


def part_of(config: dict[str, Any], name: str) -> int:
    return next(part["id"] for part in config["components"] if part["props"].get("elem_id") == name)


def send(address: str, config: dict[str, Any], event: dict[str, Any], values: dict[int, Any]) -> list[dict[str, Any]]:
    """What the server says to an event, with these values by component and the others as they are at first."""
    given = [values[part] if part in values else default(config, part) for part in event["inputs"]]
    session = uuid.uuid4().hex
    body = {"data": given, "fn_index": event["id"], "session_hash": session}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}gradio_api/queue/join", json.dumps(body).encode(), headers)
    assert ask(request)[0] == 200
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        return [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]


def default(config: dict[str, Any], part: int) -> Any:
    return next(c["props"].get("value") for c in config["components"] if c["id"] == part)
