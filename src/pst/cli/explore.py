"""`pst explore`: a local page to play with models, pictures and k."""

from __future__ import annotations

import argparse
import threading
from contextlib import suppress
from pathlib import Path

from pst.cli._common import Verbs, add_verb, positive, require

_LOOPBACK = "127.0.0.1"


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "explore",
        help="a local page: models, pictures, k, selected tokens, attention",
        description="Open a local page in the browser: drop one or two pictures, or a short video, move k and "
        "the other settings, and see results, selected tokens and the attention of a position. Without a MODEL it "
        "has the demo's, if there is one, and propagation. Models: checkpoints of Ultralytics (.pt, .safetensors), run "
        "folders of pst train and their weights, and folders of save_pretrained.",
        examples=["explore", "explore best.pt runs/"],
    )
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL", help="files, or folders with models below them"
    )
    parser.add_argument("--port", type=positive, metavar="N", help="to listen at (the first free one from 7860 on)")
    parser.add_argument(
        "--host", default=_LOOPBACK, help="address to listen at; any other than %(default)s lets others in"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, open no browser")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl+C."""
    for module in ("gradio", "timm", "av"):
        require(module, "explore")
    from pst.explore.address import LOOPBACK, check_address
    from pst.explore.explorer import Explorer
    from pst.explore.models import find_models, is_model

    check_address(args.host, args.port)
    choices = find_models(args.models)
    explorer = Explorer(choices)
    if args.models and is_model(args.models[0]):  # the page opens with it: what is wrong with it is said here
        explorer.network(choices[0].name)
    from pst.explore.server import served  # gradio takes seconds, and what is wrong is said before

    with served(explorer, host=args.host, port=args.port, open_browser=not args.no_browser) as address:
        print(f"Open {address} in a browser; Ctrl+C ends it", flush=True)
        if args.host not in LOOPBACK:
            print("Whoever can reach this address can use it, and there is no password", flush=True)
        with suppress(KeyboardInterrupt):  # the usual end
            threading.Event().wait()
    print("Ended", flush=True)
    return 0
