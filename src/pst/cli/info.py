"""`pst info`: versions and hardware; or the models of a host with their sizes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from pst.cli._common import Verbs, add_verb, format_table, require

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "info",
        help="versions and hardware; sizes of models",
        examples=["info", "info --models yolo11n", "info --timm resnet18", "info --torchvision fcos_resnet18"],
        description="Print versions and hardware, or the sizes of models that PST can be put into.",
    )
    parser.add_argument(
        "--models",
        nargs="?",
        const="",
        metavar="TEXT",
        help="list the models for Ultralytics, with true GFLOPs, instead; only those with TEXT in the name",
    )
    parser.add_argument(
        "--timm",
        nargs="*",
        metavar="NAME",
        help="sizes of these timm backbones with PST instead, next to the plain ones; without a NAME, of the ResNets",
    )
    parser.add_argument(
        "--transformers",
        nargs="*",
        metavar="NAME",
        help="sizes of these published detectors of transformers with PST instead, next to the plain ones; without a "
        "NAME, of all that are known",
    )
    parser.add_argument(
        "--torchvision",
        nargs="*",
        metavar="NAME",
        help="sizes of these detectors of torchvision with a PST pyramid instead, next to those with an FPN: builder "
        "and backbone, as in fcos_resnet18; without a NAME, of four",
    )
    parser.add_argument(
        "--libreyolo",
        nargs="*",
        metavar="NAME",
        help="sizes of these detectors of LibreYOLO with PST instead, next to the plain ones; without a NAME, of all "
        "that are known",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one fact a line, or one model."""
    if args.models is not None:
        list_models(args.models)
        return 0
    for host, show in _HOSTS.items():
        if (names := getattr(args, host)) is not None:
            show(names)
            return 0
    from pst.profile.environment import commit, hardware, versions

    for name, version in versions().items():
        print(f"{name:<12} {version}")
    facts = {"commit": commit(), **hardware()}
    for name, fact in facts.items():
        text = ", ".join(fact) if isinstance(fact, list) else fact
        print(f"{name:<12} {'none' if text in ('', None) else text}")
    if find_spec("timm") is not None:
        list_timm([])
    return 0


def list_models(text: str) -> None:
    """Print every model with ``text`` in its name as soon as it is counted: about a second each.

    Raises:
        ImportError: Ultralytics is not installed.
        ValueError: No such model.
    """
    require("ultralytics", "ultralytics")
    from pst.integrations.ultralytics import measure, model_zoo

    names = [model.name for model in model_zoo() if text in model.name]
    if not names:
        raise ValueError(f"no model has {text!r} in its name: pst info --models lists them all")
    columns = f"{{:<{max(map(len, names))}}}  {{:<8}}  {{:>10}}  {{:>6}}  {{:>3}}"
    print(columns.format("model", "task", "parameters", "GFLOPs", "px"))
    print(columns.format(*("-" * width for width in (max(map(len, names)), 8, 10, 6, 3))))
    for name in names:
        size = measure(name)
        print(columns.format(name, size.task, f"{size.parameters:,}", f"{size.gflops:.2f}", size.imgsz), flush=True)


def list_timm(names: Sequence[str]) -> None:
    """Print parameters and GFLOPs of timm backbones with PST (k = 0), next to the plain models; no name: the ResNets.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such model.
    """
    require("timm", "timm")
    from pst.integrations.timm import measure

    _print_sizes("timm model", names or _RESNETS, measure)


def list_transformers(names: Sequence[str]) -> None:
    """Print parameters and GFLOPs of detectors with PST (k = 0), next to the plain ones; all of them for no name.

    Raises:
        ImportError: transformers is not installed, or of another version.
        ValueError: There is no such detector.
    """
    require("transformers", "transformers")
    from pst.integrations.transformers import PUBLISHED, measure

    logger = logging.getLogger("pst.integrations.transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)  # all weights are fresh here
    try:
        _print_sizes("transformers model", names or list(PUBLISHED), measure)
    finally:
        logger.setLevel(before)


def list_torchvision(names: Sequence[str]) -> None:
    """Print parameters and GFLOPs of detectors with a PST pyramid (k = 0), next to those with an FPN.

    Raises:
        ImportError: torchvision or timm is not installed.
        ValueError: There is no such detector or backbone.
    """
    require("torchvision", "torchvision")
    require("timm", "torchvision")
    from pst.integrations.torchvision.size import USUAL, measure

    _print_sizes("torchvision model", names or USUAL, measure)


def list_libreyolo(names: Sequence[str]) -> None:
    """Print parameters and GFLOPs of detectors with PST (k = 0), next to the plain ones; all of them for no name.

    Raises:
        ImportError: LibreYOLO is not installed, or of another version.
        ValueError: There is no such detector.
    """
    require("libreyolo", "libreyolo")
    from pst.integrations.libreyolo.size import PUBLISHED, measure

    _print_sizes("LibreYOLO model", names or list(PUBLISHED), measure)


_HOSTS: dict[str, Callable[[Sequence[str]], None]] = {
    "timm": list_timm,
    "transformers": list_transformers,
    "torchvision": list_torchvision,
    "libreyolo": list_libreyolo,
}


def _print_sizes(title: str, names: Sequence[str], measure: Callable[[str], Any]) -> None:
    rows = []
    for name in names:
        plain = measure(name.removeprefix("pst_"))
        fused = measure(f"pst_{plain.name}")
        sizes = (f"{n:,}" for n in (fused.parameters, plain.parameters))
        gflops = (f"{n:.2f}" for n in (fused.gflops, plain.gflops))
        rows.append([fused.name, *sizes, *gflops, "x".join(map(str, fused.image_size))])
    print(format_table([title, "parameters", "plain", "GFLOPs", "plain", "px"], rows))
