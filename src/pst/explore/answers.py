"""What the page answers when a control is moved, a file dropped or a picture clicked on, as updates of components."""

# pyright: reportMissingImports=false
# gradio is in no extra but `explore`

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from pst.explore.errors import sentence
from pst.explore.explorer import Controls, Explorer, Session, Wanted, first_frame
from pst.explore.marks import Marks
from pst.explore.models import PROPAGATION
from pst.explore.view import Asked, Shown

_update: Any = gr.update
TITLES = ("k = 0", "k as chosen", "Selected tokens", "Attention of a position")  # of the four pictures
MOST = 400  # end of the sliders
FIRST = 2  # which of them labels are marked in, for propagation
_CARRYING = (*TITLES[:2], "First picture: marks, selected positions", "Attention in the first picture")

Values = dict[str, Any]
"""Where the components stand, by name. An action may change them."""
Action = Callable[[Session, Values], None]
"""What a control does before the pictures are made again."""


def read(values: Iterable[tuple[str, Any]]) -> Values:
    """What the browser sent for the components, by name, as text, whole numbers and paths.

    A layer, a fusion or a number may be one that another model or clip had: `answer` takes the nearest that there is.
    """
    return {name: _READ.get(name, _text)(value) for name, value in values}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return min(max(round(value), 0), MOST) if known else 0


def _paths(value: Any) -> list[str]:
    return [file["path"] for file in ([value] if isinstance(value, dict) else value or [])]


def _path(value: Any) -> str | None:
    return next(iter(_paths(value)), None)


_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("topk", "max_tokens", "head", "frame"), _whole),
    "files": _paths,
    "mask": _path,
}


def answer(
    explorer: Explorer, session: Session, values: Values, action: Action | None, progress: Any, *, keep: bool = False
) -> list[Any]:
    """Do what a control asks for, and make the pictures again; an error becomes a sentence on the page.

    Args:
        explorer: Computes.
        session: Of the visitor.
        values: Where the components stand, see `read`.
        action: None makes the pictures again, no more.
        progress: gradio's.
        keep: Whether the pictures stay after an error.
    """
    try:
        with explorer.running():
            if action is not None:
                action(session, values)
            wanted = _wanted(values)
            shown = explorer.show(session, wanted, lambda done, of: progress((done, of), desc="pictures"))
        clip = session.clip
        says = empty(wanted.model) if clip is None else clip.names[min(wanted.frame, len(clip.names) - 1)]
        pictures, status = _pictures(session, shown), status_of(says)
    except Exception as error:
        files = [*explorer.files(), *map(Path, filter(None, [*values["files"], values["mask"]]))]
        status = status_of(sentence(error, [file.parent for file in files]), alert=True)
        pictures = [gr.skip()] * 8 if keep else _pictures(session, Shown())
    return [session, *pictures, status, *_controls(session.controls, values, moved=action is not None)]


def click(session: Session, values: Values, number: int, index: Any) -> None:
    """Choose the position at a pixel of a picture or, for propagation in the first one, mark it."""
    size = session.sizes[number]
    if session.clip is None or size is None:
        return
    x, y = (min(max((float(v) + 0.5) / n, 0.0), 1.0) for v, n in zip(index, size, strict=True))
    if values["model"] != PROPAGATION or number < FIRST:
        session.place = x, y
    elif number == FIRST:
        session.marks.click((x, y), str(values["kind"]))


def drop(explorer: Explorer, session: Session, values: Values) -> None:
    """Take the files that were dropped."""
    explorer.drop(session, values["files"], values["mask"])
    values["frame"] = _start(session, values)


def drop_mask(explorer: Explorer, session: Session, values: Values) -> None:
    """Take the mask that was dropped."""
    explorer.drop_mask(session, values["mask"])


def clear(session: Session, _: Values) -> None:
    """Forget marks and position, but no mask."""
    session.marks, session.place = Marks(mask=session.marks.mask), None


def choose(session: Session, values: Values) -> None:
    """Begin with another model."""
    session.place = None
    values["frame"] = _start(session, values)


def empty(model: str) -> str:
    """What the page says while nothing was dropped."""
    return "Drop two images or a short video to begin." if model == PROPAGATION else "Drop an image to begin."


def status_of(text: str, *, alert: bool = False) -> str:
    """A line of the page; ``text`` is shown as it is."""
    return f'<p class="pst-says"{" role=alert" if alert else ""}>{escape(text)}</p>'


def _start(session: Session, values: Values) -> int:
    carries = session.clip is not None and values["model"] == PROPAGATION
    return first_frame(session.clip) if carries and session.clip is not None else 0


def _wanted(values: Values) -> Wanted:
    asked = Asked(values["topk"], values["max_tokens"] or None, values["fusion"], values["selection"])
    return Wanted(values["model"], asked, values["layer"], values["head"], values["frame"])


def _pictures(session: Session, shown: Shown) -> list[Any]:
    pictures = [shown.coarse, shown.fine, shown.tokens, shown.attention]
    session.sizes = tuple(None if p is None else p.size for p in pictures)
    titles = _CARRYING if session.controls is not None and session.controls.carries else TITLES
    updates = [_update(value=p, label=title) for p, title in zip(pictures, titles, strict=True)]
    return [*updates, *(f'<p class="pst-caption">{escape(text)}</p>' for text in shown.captions)]


def _controls(c: Controls | None, values: Values, *, moved: bool) -> list[Any]:
    """Updates of k, max_tokens, fusion, selection, layer, head, frame, and of what belongs to propagation."""
    if c is None:
        return [gr.skip()] * 9
    fusions = c.fusions or ("gate", "refine")
    fusion = values["fusion"] if values["fusion"] in fusions else fusions[0]
    layer = values["layer"] if values["layer"] in c.layers else next(iter(c.layers), None)
    head = min(values["head"], max(c.heads - 1, 0))
    most = max(c.frames - 1, 1)
    model = _update(visible=not c.carries)
    bound = _update(maximum=c.topk, visible=not c.carries, **({"value": 0} if values["max_tokens"] > c.topk else {}))
    carries = _update(visible=c.carries)
    return [
        _update(maximum=c.topk, **({"value": c.topk} if values["topk"] > c.topk else {})),
        bound,
        _update(choices=list(fusions), value=fusion, visible=not c.carries),
        model,
        _update(choices=list(c.layers), value=layer, visible=bool(c.layers)),
        _update(choices=list(range(max(c.heads, 1))), value=head, visible=c.heads > 1),
        _update(maximum=most, visible=c.frames > 1, **({"value": min(values["frame"], most)} if moved else {})),
        carries,
        carries,
    ]
