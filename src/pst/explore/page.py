"""The page, of gradio's components. Every control leads to `pst.explore.answers.answer`, one at a time."""

# pyright: reportMissingImports=false
# gradio is in no extra but `explore`

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

from pst.explore import answers
from pst.explore.answers import MOST
from pst.explore.explorer import Explorer, Session
from pst.explore.models import PROPAGATION
from pst.explore.view import SELECTIONS

# gradio's own semi-bold file, which its default theme takes, lacks most letters
FONT = [LocalFont("Source Sans Pro", weights=(400, 700)), "sans-serif"]
CSS = """
#status, #status > div { padding: 0; }
.pst-says { min-height: 1.5em; margin: 0; overflow-wrap: anywhere; }
.pst-says[role=alert] { color: var(--error-text-color); font-weight: 600; }
.pst-caption { margin: -8px 0 8px; overflow-wrap: anywhere; font-size: var(--text-sm); }
.pst-picture img { cursor: crosshair; }
"""
_INTRO = """## pst explore
Drop pictures, move k, and click on one of them to see where that position looks. Nothing leaves this machine."""

_FUSION = "gate mixes coarse and fine attention by learned weights; refine puts fine tokens in place of the coarse one."
_SELECTION = "The rule that chooses the k tokens."
_FRAME = "For propagation: labels of the first frame are carried to this one."
_LAYER = "The PST layer whose tokens and attention are shown below."
_HEAD = "Each head of a layer selects its own tokens."


class Inputs(NamedTuple):
    """The components that say what is wanted."""

    model: Any
    files: Any
    topk: Any
    max_tokens: Any
    fusion: Any
    selection: Any
    layer: Any
    head: Any
    frame: Any
    kind: Any
    mask: Any


def build_page(explorer: Explorer) -> gr.Blocks:
    """The page; `pst.explore.server.serve` serves it."""
    names = list(explorer.choices)
    with gr.Blocks(title="pst explore", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        session = gr.State(Session())
        gr.Markdown(_INTRO)
        status = gr.HTML(answers.status_of(answers.empty(names[0])), elem_id="status", padding=False)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                inputs, marking = _controls(names)
            with gr.Column(scale=3, min_width=320):
                pictures, captions = _pictures()
        i = inputs
        changing = [i.topk, i.max_tokens, i.fusion, i.selection, i.layer, i.head, i.frame, *marking]
        listen = partial(_listen, explorer, [session, *inputs], [session, *pictures, *captions, status, *changing])
        listen(page.load)
        # not its input, which comes twice, and at times with the model before
        listen(i.model.change, answers.choose, trigger_mode="always_last")
        listen(i.files.change, partial(answers.drop, explorer))
        listen(i.mask.change, partial(answers.drop_mask, explorer), keep=True)
        listen(marking[1].click, answers.clear)
        for part in changing[:7]:
            listen(part.input, trigger_mode="always_last")
        for number, picture in enumerate(pictures):
            listen(picture.select, number=number, keep=True, trigger_mode="multiple")  # two quick clicks are a box
    return page


def _controls(names: Sequence[str]) -> tuple[Inputs, list[Any]]:
    """What is put in; and what is there for propagation alone."""
    carries = names[0] == PROPAGATION
    model = gr.Dropdown(list(names), value=names[0], label="Model", elem_id="model")
    files = gr.File(
        label="Image, images of one size, or a short video", file_count="multiple", height=175, elem_id="files"
    )
    frame = gr.Slider(0, 1, 0, step=1, label="Frame that is shown", info=_FRAME, visible=False, elem_id="frame")
    topk = gr.Slider(0, MOST, 8, step=1, label="k: coarse tokens that are looked at finely", elem_id="topk")
    bound = gr.Slider(0, MOST, 0, step=1, label="max_tokens: coarse tokens at most, 0 for all", elem_id="max_tokens")
    fusion = gr.Radio(["gate", "refine"], value="gate", label="Fusion", info=_FUSION, elem_id="fusion")
    selection = gr.Dropdown(list(SELECTIONS), value="mean", label="Selection", info=_SELECTION, elem_id="selection")
    layer = gr.Dropdown([], label="Layer", info=_LAYER, visible=False, elem_id="layer")
    head = gr.Dropdown([0], value=0, label="Head", info=_HEAD, visible=False, elem_id="head")
    with gr.Column(visible=carries) as group:
        kind = gr.Radio(["box", "point"], value="box", label="Clicks on the first picture mark a", elem_id="kind")
        mask = gr.File(label="or drop a mask of it (PNG)", file_count="single", height=160, elem_id="mask")
    button = gr.Button("Clear points and boxes", visible=carries, elem_id="clear")
    for part in (files, mask):
        _fetch_nothing(part)
    return Inputs(model, files, topk, bound, fusion, selection, layer, head, frame, kind, mask), [group, button]


def _fetch_nothing(part: Any) -> None:
    """Let a gr.File refuse an address in the place of a file, which gradio would fetch.

    No subclass does it: gradio writes a stub file beside the source of every subclass of a component.
    """
    take = part.async_move_resource_to_block_cache

    async def take_file(path: Any) -> str | None:
        if "://" in str(path):
            raise gr.Error("drop a file: addresses are not fetched", print_exception=False)
        return await take(path)

    part.async_move_resource_to_block_cache = take_file


def _pictures() -> tuple[list[Any], list[Any]]:
    pictures, captions = [], []
    for row in (answers.TITLES[:2], answers.TITLES[2:]):
        with gr.Row():
            for title in row:
                with gr.Column(min_width=280):
                    name = f"picture{len(pictures)}"
                    pictures.append(
                        gr.Image(
                            label=title, interactive=False, format="png", buttons=["fullscreen"], elem_id=name,
                            elem_classes="pst-picture",
                        )
                    )  # fmt: skip
                    captions.append(gr.HTML("", elem_id=f"caption{len(captions)}", padding=False))
    return pictures, captions


def _listen(
    explorer: Explorer,
    given: list[Any],
    outputs: list[Any],
    event: Callable[..., Any],
    action: answers.Action | None = None,
    *,
    number: int | None = None,
    keep: bool = False,
    **options: Any,
) -> None:
    """Answer an event; ``number`` is that of the picture that was clicked on.

    gradio does not check the values (``preprocess``): an event may have been sent before the choices and ends that the
    one before it brings, as when a dropdown sends two at once. `answers.read` takes any value.
    """

    def run(session: Session, values: Sequence[Any], own: answers.Action | None, progress: Any) -> list[Any]:
        named = answers.read(zip(Inputs._fields, values, strict=True))
        return answers.answer(explorer, session, named, own, progress, keep=keep)

    def moved(session: Session, *values: Any, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        return run(session, values, action, progress)

    def clicked(event: gr.SelectData, session: Session, *values: Any, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        return run(session, values, lambda s, v: answers.click(s, v, number or 0, event.index), progress)

    event(
        moved if number is None else clicked, given, outputs, concurrency_id="pst", concurrency_limit=1,
        api_visibility="private", show_progress="minimal", show_progress_on=outputs[1:3],
        preprocess=False, **options,
    )  # fmt: skip
