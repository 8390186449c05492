"""`pst info`: versions and hardware; or the models of a host with their sizes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from pst.cli._common import Verbs, add_verb, format_table, require
from pst.io.logs import logging_at
from pst.io.versions import is_installed


class _Host(NamedTuple):
    title: str
    packages: tuple[str, ...]


_HOSTS = {
    "timm": _Host("timm", ("timm",)),
    "transformers": _Host("transformers", ("transformers",)),
    "torchvision": _Host("torchvision", ("torchvision", "timm")),
    "libreyolo": _Host("LibreYOLO", ("libreyolo",)),
}  # each has a module ``size`` with `measure` and `USUAL`


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
        help="list the Ultralytics models, attention counted in GFLOPs; only those with TEXT in the name",
    )
    parser.add_argument(
        "--timm",
        nargs="*",
        metavar="NAME",
        help="list these timm backbones, with PST and plain; without a NAME, the ResNets",
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
    for host in _HOSTS:
        if (names := getattr(args, host)) is not None:
            list_sizes(host, names)
            return 0
    from pst.profile.environment import commit, hardware, versions

    for name, version in versions().items():
        print(f"{name:<12} {version}")
    facts = {"commit": commit(), **hardware()}
    for name, fact in facts.items():
        text = ", ".join(fact) if isinstance(fact, list) else fact
        print(f"{name:<12} {'none' if text in ('', None) else text}")
    if is_installed("timm"):
        list_sizes("timm", [])
    return 0


def list_models(text: str) -> None:
    """Print every model with ``text`` in its name as soon as it is counted: about a second each.

    Raises:
        ImportError: Ultralytics is not installed.
        ValueError: No such model.
    """
    require("ultralytics", "ultralytics")
    from pst.integrations.ultralytics import measure, model_zoo

    names = [model.name for model in model_zoo() if text.lower() in model.name]
    if not names:
        raise ValueError(f"no model has {text!r} in its name: pst info --models lists them all")
    columns = f"{{:<{max(map(len, names))}}}  {{:<8}}  {{:>10}}  {{:>6}}  {{:>3}}"
    print(columns.format("model", "task", "parameters", "GFLOPs", "px"))
    print(columns.format(*("-" * width for width in (max(map(len, names)), 8, 10, 6, 3))))
    for name in names:
        size = measure(name)
        print(columns.format(name, size.task, f"{size.parameters:,}", f"{size.gflops:.2f}", size.imgsz), flush=True)


def list_sizes(host: str, names: Sequence[str]) -> None:
    """Print parameters and GFLOPs of a host's models with PST (k = 0), next to the plain ones.

    Args:
        host: A key of `_HOSTS`.
        names: Of the models; none is the usual ones.

    Raises:
        ImportError: The host is not installed, or of another version.
        ValueError: It has no such model.
    """
    for package in _HOSTS[host].packages:
        require(package, host)
    size = import_module(f"pst.integrations.{host}.size")
    with logging_at(f"pst.integrations.{host}", logging.ERROR):  # that all weights are fresh goes without saying here
        _print_sizes(f"{_HOSTS[host].title} model", names or size.USUAL, size.measure)


def _print_sizes(title: str, names: Sequence[str], measure: Callable[[str], Any]) -> None:
    rows = []
    for name in names:
        plain = measure(name.removeprefix("pst_"))
        fused = measure(f"pst_{plain.name}")
        sizes = (f"{n:,}" for n in (fused.parameters, plain.parameters))
        gflops = (f"{n:.2f}" for n in (fused.gflops, plain.gflops))
        rows.append([fused.name, *sizes, *gflops, "x".join(map(str, fused.image_size))])
    print(format_table([title, "parameters", "plain", "GFLOPs", "plain", "px"], rows))
