"""What the page asks for, without a page: a session's state in, four pictures with a line each out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pst.explore.carrying import Carrying, Progress, show_carried, show_unmarked
from pst.explore.clip import Clip, read_clip, read_labels
from pst.explore.draw import Place
from pst.explore.marks import Marks
from pst.explore.models import PROPAGATION, Choice, load_model
from pst.explore.networks import Network
from pst.explore.view import Asked, Computed, Shown, compute, fusions_of, show
from pst.propagate import BackboneFeatures, Features

_MOST_TOPK = 400  # of the slider
_AHEAD = 10  # frame of a longer clip that is shown first


class Wanted(NamedTuple):
    """Where the page's controls stand.

    Attributes:
        model: Name of a `Choice`.
        asked: k and the other settings of layers.
        layer: Name of a layer; one that the model has not means its first.
        head: Its head; too large a one means its last.
        frame: Which picture of the clip.
    """

    model: str
    asked: Asked
    layer: str
    head: int
    frame: int


class Controls(NamedTuple):
    """What the page's controls have to offer for a model and a clip."""

    topk: int
    fusions: tuple[str, ...]
    layers: tuple[str, ...]
    heads: int
    frames: int
    carries: bool


@dataclass
class Session:
    """What one visitor did.

    Attributes:
        clip: What was dropped.
        marks: What is to be carried, for propagation.
        place: The position that was clicked on.
        cache: The last results, by what they depend on.
        controls: What the page offers now.
        sizes: (width, height) of the pictures on the page, None where there is none.
    """

    clip: Clip | None = None
    marks: Marks = field(default_factory=Marks)
    place: Place | None = None
    cache: dict[Any, Any] = field(default_factory=dict)
    controls: Controls | None = None
    sizes: tuple[tuple[int, int] | None, ...] = (None,) * 4


class Explorer:
    """Models to choose from; the last one that was used stays in memory. One thread at a time may use it.

    Args:
        choices: See `pst.explore.models.find_models`.
        features: What propagation matches pictures by; None is `pst.propagate.BackboneFeatures`.
    """

    def __init__(self, choices: Sequence[Choice], features: Features | None = None) -> None:
        self.choices = {choice.name: choice for choice in choices}
        self._features = features
        self._loaded: tuple[str, Network] | None = None
        self._running, self._closed = threading.Lock(), False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work for the page, inside the with block; `close` waits for it.

        Raises:
            ValueError: It is closed.
        """
        with self._running:
            self._check_open()
            yield

    def close(self) -> None:
        """End the work that runs, after the picture that it is at, and begin none.

        A thread that computes while Python ends would take the process down.
        """
        self._closed = True
        with self._running:
            pass

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the page was closed")

    def files(self) -> list[Path]:
        """The models', whose folders no message need name."""
        return [choice.path for choice in self.choices.values() if choice.path is not None]

    def drop(self, session: Session, files: Sequence[str | Path], mask: str | Path | None = None) -> None:
        """Take what was dropped, or nothing, in place of what was there; and a mask of its first picture.

        Raises:
            OSError: A file cannot be decoded; then nothing is there.
            ValueError: See `read_clip` and `read_labels`; likewise.
        """
        session.clip, session.marks, session.place, session.cache = None, Marks(), None, {}
        session.clip = read_clip(files) if files else None
        self.drop_mask(session, mask)

    def drop_mask(self, session: Session, file: str | Path | None) -> None:
        """Take a mask of the first picture, which may still come; None takes it away. Raises as `read_labels`."""
        session.marks.mask = None
        if file is not None:
            session.marks.mask = read_labels(file, session.clip)

    def network(self, name: str) -> Network | None:
        """The model of this name, loaded; None for propagation. Raises as `load_model`, or ValueError."""
        if name == PROPAGATION and name in self.choices:
            return None
        path = self.choices[name].path if name in self.choices else None
        if path is None:
            raise ValueError(f"there is no model {name[:80]!r}: choose one of the list")
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # two at a time may not fit into memory
            self._loaded = name, load_model(path)
        return self._loaded[1]

    def show(self, session: Session, wanted: Wanted, progress: Progress | None = None) -> Shown:
        """Pictures for what the controls say; sets `Session.controls`.

        Raises:
            ValueError: Nothing was dropped, or something does not fit; the message says what.
        """

        def told(done: int, of: int) -> None:
            self._check_open()
            if progress is not None:
                progress(done, of)

        network = self.network(wanted.model)
        frames = 1 if session.clip is None else len(session.clip.frames)
        if network is None:
            session.controls = Controls(_MOST_TOPK, (), (), 0, frames, carries=True)
            return self._carried(session, wanted, told)
        session.controls = Controls(_MOST_TOPK, tuple(fusions_of(network)), (), 0, frames, carries=False)
        if session.clip is None:
            return Shown()
        frame = min(max(wanted.frame, 0), frames - 1)
        asked = _possible(wanted.asked, session.controls.fusions)
        computed: Computed = self._computed(session, network, frame, wanted.model, asked)
        layer = wanted.layer if wanted.layer in computed.passes else next(iter(computed.passes))
        heads = computed.passes[layer].layer.num_heads
        most = max(p.coarse_size[0] * p.coarse_size[1] for p in computed.passes.values())
        session.controls = session.controls._replace(
            topk=min(most, _MOST_TOPK), layers=tuple(computed.passes), heads=heads
        )
        return show(computed, asked, layer, min(max(wanted.head, 0), heads - 1), session.place)

    def _computed(self, session: Session, network: Network, frame: int, model: str, asked: Asked) -> Any:
        assert session.clip is not None
        key = (model, frame, asked)
        if key not in session.cache:
            session.cache = {key: compute(network, session.clip.frames[frame], asked)}
        return session.cache[key]

    def _carried(self, session: Session, wanted: Wanted, progress: Progress) -> Shown:
        clip, marks = session.clip, session.marks
        if clip is None:
            return Shown()
        if len(clip.frames) < 2:
            raise ValueError(
                "propagation carries labels from one picture to others: drop two images, or a short video; "
                "one image is for a model of your own, pst explore best.pt"
            )
        index, topk = min(max(wanted.frame, 0), len(clip.frames) - 1), wanted.asked.topk
        if not marks.points and marks.labels(clip.frames[0].size) is None:
            return show_unmarked(clip, marks, index)
        features = self._features = BackboneFeatures() if self._features is None else self._features
        before, marked = session.cache, marks.key()
        session.cache = {
            key: before[key] if key in before else Carrying(clip, marks, features, k)
            for k, key in ((k, ("carried", k, marked)) for k in (0, topk))
        }
        coarse, fine = (session.cache["carried", k, marked] for k in (0, topk))
        assert session.controls is not None
        most = coarse.cells[0] * coarse.cells[1]  # those of k = 0, which stay while k is moved
        session.controls = session.controls._replace(topk=min(most, _MOST_TOPK))
        return show_carried(coarse, fine, topk, marks, index, session.place, progress)


def first_frame(clip: Clip) -> int:
    """The picture that is shown first: for propagation not the one that is marked."""
    return min(len(clip.frames) - 1, _AHEAD)


def _possible(asked: Asked, fusions: Sequence[str]) -> Asked:
    """The same with a fusion that the model has."""
    return asked if asked.fusion in fusions else Asked(asked.topk, asked.max_tokens, fusions[0], asked.selection)
