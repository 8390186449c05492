"""Where the page is served."""

from __future__ import annotations

import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other can reach."""
_PORTS = 65536


def check_address(host: str, port: int | None) -> None:
    """Refuse an address that cannot be listened at; gradio would wait for it forever.

    Raises:
        ValueError: It is none of this machine, or the port is taken or none.
    """
    at = host if port is None else f"{host}, port {port}"
    if port is not None and not 0 < port < _PORTS:  # of which the system would take the remainder
        raise ValueError(f"the page cannot be served at {at}: choose a --port from 1 to {_PORTS - 1}")
    try:
        found = socket.getaddrinfo(host, 0 if port is None else port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise ValueError(f"the page cannot be served at {at} ({said}): choose another --host or --port") from error
