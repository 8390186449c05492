"""What a pickle names and builds, found out from its opcodes before anything decodes it."""

from __future__ import annotations

import pickletools
import re
from typing import Any, NamedTuple

_MAX_TUPLE = (
    256  # parts of a tuple, those of the tuples inside counted each time; in a checkpoint shapes are the longest
)
_OPCODES = re.compile(  # those of torch.save
    r"APPENDS?|BIN(FLOAT|GET|INT[12]?|PERSID|PUT|UNICODE)|BUILD|EMPTY_(DICT|LIST|SET|TUPLE)|GLOBAL|LONG(1|_BINGET|_BINPUT)|"
    r"MARK|NEW(FALSE|OBJ|TRUE)|NONE|PROTO|REDUCE|SETITEMS?|SHORT_BINSTRING|STOP|TUPLE[123]?"
)
_GETS, _PUTS = ("BINGET", "LONG_BINGET"), ("BINPUT", "LONG_BINPUT")
_MARKS = (pickletools.markobject, pickletools.stackslice)
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CHECKED = ("PROTO", "LONG1", "REDUCE")
# Opcode -> whether it takes all since the last mark, how many items before that, and how many it leaves.
_EFFECTS = {
    opcode.name: (
        pickletools.markobject in opcode.stack_before,
        sum(kind not in _MARKS for kind in opcode.stack_before),
        len(opcode.stack_after),
    )
    for opcode in pickletools.opcodes
    if _OPCODES.fullmatch(opcode.name)
}


class RefusedError(ValueError):
    """The pickle holds what no checkpoint needs; the message is a predicate: "names posix.system"."""


class _Item(NamedTuple):
    """What lies on the pickle's stack: its parts, and, of names, texts and tuples, what it is."""

    parts: int = 1
    value: Any = None


_PLAIN = _Item()


class _Name(str):
    """A function or class that the pickle names, to tell it from a text."""

    __slots__ = ()


def scan(pickled: bytes) -> set[str]:
    """Full names of the functions and classes that a pickle of ``torch.save`` (protocol 2) names.

    Raises:
        RefusedError: It is of another protocol, holds a tuple that takes for ever to hash or an integer of more than
            64 bits (such keys can be made to collide), or encodes text as something else than bytes.
        ValueError: It is malformed.
    """
    names: set[str] = set()
    stack: list[_Item] = []
    marks: list[list[_Item]] = []
    memo: dict[int, _Item] = {}
    arg: Any  # of a type that follows from the opcode
    try:
        for opcode, arg, _ in pickletools.genops(pickled):
            name = opcode.name
            if name not in _EFFECTS:
                raise RefusedError(f"has the opcode {name}, which torch.save does not write")
            if name in _CHECKED:
                _check(name, arg, stack)
            if name == "GLOBAL":
                full = _Name(_full_name(arg))
                names.add(str(full))
                stack.append(_Item(value=full))
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name in _GETS:
                stack.append(memo[arg])
            elif name in _PUTS:
                memo[arg] = stack[-1]
            elif name == "TUPLE" or name in _TUPLES:
                stack, items = (marks.pop(), stack) if name == "TUPLE" else (stack, _pop(stack, _TUPLES[name]))
                stack.append(_tuple(items))
            else:
                marked, taken, left = _EFFECTS[name]
                if marked:
                    stack = marks.pop()
                if taken:
                    _pop(stack, taken)
                if left:
                    stack.append(_Item(value=arg) if name == "BINUNICODE" else _PLAIN)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"malformed pickle: {error!r}") from error
    return names


def _check(name: str, arg: Any, stack: list[_Item]) -> None:
    if name == "PROTO" and arg != 2:
        raise RefusedError(f"has protocol {arg}, not torch.save's 2")
    if name == "LONG1" and arg.bit_length() > 64:
        raise RefusedError("holds an integer of more than 64 bits")
    if name == "REDUCE" and stack[-2].value == "_codecs.encode" and isinstance(stack[-2].value, _Name):
        args = stack[-1].value
        if not isinstance(args, tuple) or args[1:] != ("latin1",):  # how bytes are written; others take for ever
            raise RefusedError("encodes a text as something else than bytes")


def _pop(stack: list[_Item], count: int) -> list[_Item]:
    """Take the last items off."""
    if count > len(stack):
        raise ValueError("malformed pickle: its stack is empty")
    items = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return items


def _tuple(items: list[_Item]) -> _Item:
    parts = 1 + sum(item.parts for item in items)
    if parts > _MAX_TUPLE:
        raise RefusedError(f"holds a tuple of more than {_MAX_TUPLE} parts")
    return _Item(parts, tuple(item.value for item in items))


def _full_name(arg: str) -> str:
    module, _, name = arg.partition(" ")
    return f"{'builtins' if module == '__builtin__' else module}.{name}"  # as protocol 2 spells it
