"""Fuzzing of readers: damage a valid file a little, read it, and ask for a valid result or one sentence.

`run` takes a `Target`; whoever adds a reader adds a target in a test of his own. The same seed gives the same damage.

Environment: ``PST_FUZZ_SECONDS`` is how long each target of a test is tried (else a fixed number of tries), and
``PST_FUZZ_SEED`` the first seed. ``PST_FUZZ_SECONDS=60 pytest tests/data/test_fuzz.py`` takes a minute a target.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pickletools
import random
import re
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SLOWEST = 20  # seconds that one small file may take
LONGEST = 1000  # letters of a message
_TOKENS = re.compile(r"[A-Za-z_]+|\d+|\s+|.", re.DOTALL)
_TEXTS = (
    *[
        "0",
        "-1",
        "1e999",
        "nan",
        "-inf",
        "NaN",
        "0.5",
        "2",
        "1e-320",
        "null",
        "~",
        "true",
        "no",
        "2020-01-01",
        "[]",
        "{}",
        "''",
        '"x"',
        "é",
        "٣",
        "..",
        "../",
        "/",
        "\\",
        "./",
    ],
    *["[", "{", "}", "]", ":", "&a", "*a", "!!x", "<<:", "#", "'", '"', "%", ","],
    *("", "- ", "\t", "\n", " ", "\0", "\x1b[31m", "\u2028", "\ufeff", "1" * 30, "x" * 3000, "[" * 3000),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 0.5, 1e300, float("nan"), 10**40, "", "1", "x", "../x", "/x", "\0", "x" * 3000),
    *([], {}, [1], [[1]], [[]], {"a": 1}, [1, 2, 3, 4], [float("inf")] * 4, ["1"] * 4),
)


class Target(NamedTuple):
    """A reader to be tried.

    Attributes:
        make: Writes valid files into an empty folder and returns those that are to be damaged.
        read: Reads them; raises AssertionError where a result is invalid.
        expected: The exceptions that say that a file is wrong, exactly these classes.
    """

    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]
    expected: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)


def run(target: Target, root: Path, *, tries: int, name: str) -> int:
    """Damage and read until the tries, or the seconds of the environment, are over; returns how many were refused."""
    seconds, first = float(os.environ.get("PST_FUZZ_SECONDS", "0")), int(os.environ.get("PST_FUZZ_SEED", "0"))
    files = list(target.make(root))
    valid = {file: file.read_bytes() for file in files}
    target.read(root)
    began, refused, done = time.monotonic(), 0, 0
    while time.monotonic() - began < seconds if seconds else done < tries:
        rng = random.Random(f"{name} {first + done}")
        done += 1
        file = rng.choice(files)
        file.write_bytes(damage(rng, valid[file], file.suffix))
        refused += not _holds(target, root, f"{name}, seed {first + done - 1}, {file.name}")
        file.write_bytes(valid[file])
    shutil.rmtree(root)
    return refused


def _holds(target: Target, root: Path, what: str) -> bool:
    """Whether a damaged file was still valid; fails where the reader neither reads nor refuses it well."""
    began = time.monotonic()
    refusal = None
    try:
        target.read(root)
    except Exception as error:
        if type(error) not in target.expected:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        refusal = str(error)
    assert time.monotonic() - began < SLOWEST, f"{what}: took {time.monotonic() - began:.0f} s"
    if refusal is not None:
        assert str(root) in refusal, f"{what}: the message names no file: {refusal!r}"
        assert "\n" not in refusal, f"{what}: the message has several lines: {refusal!r}"
        assert len(refusal) < LONGEST, f"{what}: the message has {len(refusal)} letters: {refusal!r}"
    return refusal is None


def damage(rng: random.Random, content: bytes, suffix: str) -> bytes:
    """Valid content of a file, changed in one to three places.

    Bytes, words, values of JSON, chunks of a PNG, records of a ``.pt`` or ``.pt2``, the header of a ``.safetensors``.
    """
    kinds: list[Callable[[random.Random, bytes], bytes]] = [_bytes]
    if suffix in (".txt", ".yaml", ".json"):
        kinds = [_bytes, _words, _words]
    if suffix == ".json":
        kinds += [_json] * 4
    if suffix == ".png":
        kinds += [_chunk] * 2
    if suffix in (".pt", ".pt2"):
        kinds += [_record] * 5
    if suffix == ".safetensors":
        kinds += [_header] * 5
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(kinds)(rng, content)
    return content


def _bytes(rng: random.Random, content: bytes) -> bytes:
    a = rng.randrange(len(content) + 1)
    b = min(len(content), a + rng.choice((0, 1, 1, 2, 4, 16, 200)))
    new = rng.choice((b"", b"\0", b"\xff", b"\xff\xfe", rng.randbytes(b - a), rng.randbytes(4), content[a:b] * 2))
    return content[:a] + new + content[b if rng.random() < 0.9 else len(content) :]


def _words(rng: random.Random, content: bytes) -> bytes:
    tokens = _TOKENS.findall(content.decode("utf-8", "replace"))
    for _ in range(rng.randint(1, 2)):
        if tokens:
            i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
            tokens[i] = rng.choice((rng.choice(_TEXTS), rng.choice(_TEXTS), tokens[j], tokens[i] * 2, ""))
    return "".join(tokens).encode("utf-8", "replace")


def _json(rng: random.Random, content: bytes) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _bytes(rng, content)
    places: list[tuple[Any, Any]] = []
    stack = [document]
    while stack:
        value = stack.pop()
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
        places += [(value, key) for key, _ in pairs]
        stack += [inner for _, inner in pairs]
    if not places:
        return json.dumps(rng.choice(_VALUES)).encode()
    holder, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.append(holder[key])
        case _:
            holder[key] = rng.choice(_VALUES)
    return json.dumps(document).encode()


def _chunk(rng: random.Random, content: bytes) -> bytes:
    """One chunk of a PNG damaged behind a right checksum, its pixels also inside the compression."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        length = struct.unpack(">I", content[at : at + 4])[0]
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return _bytes(rng, content)
    i = rng.randrange(len(chunks))
    kind, data = chunks[i]
    try:
        inner = rng.random() < 0.5 and kind == b"IDAT"
        data = zlib.compress(_bytes(rng, zlib.decompress(data))) if inner else _bytes(rng, data)
    except zlib.error:
        data = _bytes(rng, data)
    chunks[i] = (kind, data)
    if rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return content[:8] + b"".join(body)


def _record(rng: random.Random, content: bytes) -> bytes:
    """One record of an archive damaged behind a right checksum, the pickle most often."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error):
        return _bytes(rng, content)
    i = rng.randrange(len(records))
    small = [j for j, (name, _) in enumerate(records) if name.endswith((".pkl", ".json"))]
    i = rng.choice(small) if small and rng.random() < 0.7 else i
    name, data = records[i]
    records[i] = (
        name,
        rng.choice((_bytes, _words, _json) if name.endswith(".json") else (_bytes, _bytes, _opcodes))(rng, data),
    )
    if rng.random() < 0.1:
        records.append(rng.choice(records))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        for each, data in records:
            archive.writestr(each, data)
    return out.getvalue()


def _opcodes(rng: random.Random, content: bytes) -> bytes:
    """A pickle with one opcode left out, said again, or moved."""
    try:
        starts = [at for _, _, at in pickletools.genops(content)] + [len(content)]
    except Exception:  # damaged already
        return _bytes(rng, content)
    parts = [content[a:b] for a, b in itertools.pairwise(starts)]
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(3):
        case 0:
            del parts[i]
        case 1:
            parts.insert(i, parts[j])
        case _:
            parts[i], parts[j] = parts[j], parts[i]
    return b"".join(parts)


def _header(rng: random.Random, content: bytes) -> bytes:
    """The JSON of a ``.safetensors``, or the JSON inside its metadata, damaged under a right length."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
        metadata = header.get("__metadata__", {})
        name = rng.choice(sorted(metadata)) if metadata and rng.random() < 0.7 else None
        if name is not None:
            metadata[name] = rng.choice((_json, _words))(rng, metadata[name].encode()).decode("utf-8", "replace")
            new = json.dumps(header).encode()
        else:
            new = _json(rng, content[8 : 8 + length])
    except (ValueError, RecursionError, AttributeError, TypeError):
        return _bytes(rng, content)
    new += b" " * (-len(new) % 8)
    return len(new).to_bytes(8, "little") + new + content[8 + length :]
