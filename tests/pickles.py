"""Pickles written by hand, of the protocol that torch.save writes."""

from __future__ import annotations

import struct

EMPTY, NEWOBJ, REDUCE, BUILD = b")", b"\x81", b"R", b"b"


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def use(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def program(*parts: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + b"".join(parts) + b"."


def mapping(**parts: bytes) -> bytes:
    """A dict."""
    return b"}(" + b"".join(text(name) + part for name, part in parts.items()) + b"u"


def shared_tuples(depth: int) -> bytes:
    """A list that ends with a tuple of two, each a tuple of two, …, all of them shared: 2^depth parts in few bytes."""
    return b"](" + b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(depth)) + b"e"


def shared_lists(depth: int) -> bytes:
    """The same of lists."""
    return b"](" + b"]q\x00" + b"".join(b"](h\x00h\x00eq\x00" for _ in range(depth)) + b"e"
