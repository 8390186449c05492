"""Models by name: the paper's, from the YAML files in ``cfg``, and PST necks made of the host's own YAMLs.

A neck is named as the host's model, with ``-pst-neck`` behind host and scale: ``yolo26n-seg.yaml`` gives
``yolo26n-pst-neck-seg.yaml``. ``yolo11n-pst-neck-p2.yaml`` also has a level of stride 4, with the host's own file for
it where there is one. RT-DETR, which the paper has no model of, goes without "neck": ``rtdetr-l-pst.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ultralytics.nn.tasks import guess_model_scale
from ultralytics.utils import ROOT, YAML

from pst.integrations.ultralytics.neck import pst_neck
from pst.io.names import nearest

HOSTS = ("yolo11", "yolo12", "yolo26")
SCALES = "nsmlx"
TASKS = {
    "": "detect", "-seg": "segment", "-sem": "semantic", "-depth": "depth", "-pose": "pose", "-obb": "obb",
    "-cls": "classify",
}  # fmt: skip

_CFG = Path(__file__).parent / "cfg"
# the ResNets are one file for each task: blocks of the four stages, width
_RESNETS = {
    "resnet18": ((2, 2, 2, 2), 0.25),
    "resnet50": ((3, 4, 6, 3), 0.25),
    "resnet101": ((3, 4, 23, 3), 0.50),
}


class ZooModel(NamedTuple):
    """One model that `YOLO` builds by name.

    Attributes:
        name: e.g. "yolo11n-pst.yaml".
        task: As Ultralytics calls it.
        scale: "n", "s", "m", "l" or "x"; that of the paper's ResNets is fixed.
    """

    name: str
    task: str
    scale: str


def model_zoo() -> list[ZooModel]:
    """The paper's twelve models, then the PST necks of every host and task of the installed Ultralytics."""
    return [*_paper_models(), *_necks()]


def bundled_models() -> dict[str, Path]:
    """Bundled YAML files by name, without a scale letter: {"yolo11-pst.yaml": path, …}."""
    return {path.name: path for path in sorted(_CFG.glob("*.yaml"))}


def load_by_name(name: str, host_load: Callable[[str], dict[str, Any]]) -> dict[str, Any] | None:
    """Model dictionary of a name that is ours; self-contained, so it can be saved and parsed again anywhere.

    Args:
        name: File name, with or without a scale letter.
        host_load: Ultralytics' own ``yaml_model_load``.

    Returns:
        The dictionary, as ``yaml_model_load`` would return it; None when the name is none of ours.

    Raises:
        FileNotFoundError: The host of a neck does not exist, or a part of the name begins with "pst"
            and it is no model's.
        ValueError: The model has no such scale, or its host nothing that PST could replace.
    """
    if (host := host_name(name)) is not None:
        plain = host.replace("-p2", "", 1)
        own = host == plain or _without_scale(host) in _installed()
        d = pst_neck(host_load(host)) if own else pst_neck(host_load(plain), finest=4)
    elif (path := bundled_models().get(_file_name(name))) is not None:
        d = _resize(YAML.load(str(path)), Path(name).stem)
    elif any(part.startswith("pst") for part in Path(name).stem.split("-")):
        meant = nearest(name, [model.name for model in model_zoo()], 0.6)
        raise FileNotFoundError(f"no file {name} and no model of that name{meant} (pst info --models lists them)")
    else:
        return None
    return {**d, "scale": _scale(name, d), "yaml_file": name}


def host_name(name: str) -> str | None:
    """Name of the host's model that a neck is made of; None when ``name`` is not a neck's."""
    if "-pst-neck" in name:
        return name.replace("-pst-neck", "", 1)
    return name.replace("-pst", "", 1) if re.fullmatch(r"rtdetr-\w+-pst\.ya?ml", name) else None


def _file_name(name: str) -> str:
    """Bundled file that a name is built from: no scale letter, and ResNet-50 for every ResNet."""
    name = _without_scale(name)
    resnet = name.partition("-")[0]
    return name.replace(resnet, "resnet50", 1) if resnet in _RESNETS else name


def _without_scale(name: str) -> str:
    return re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", name)


def _installed() -> set[str]:
    """Names of the host's own files."""
    return {path.name for path in (ROOT / "cfg" / "models").rglob("*.yaml")}


def _resize(d: dict[str, Any], stem: str) -> dict[str, Any]:
    """Block counts and width of the ResNet that ``stem`` names; any other model unchanged."""
    resnet = stem.partition("-")[0]
    if resnet in _RESNETS:
        blocks, d["width_multiple"] = _RESNETS[resnet]
        for row, number in zip(d["backbone"][1:5], blocks, strict=True):
            row[3][4] = number
    return d


def _scale(name: str, d: dict[str, Any]) -> str:
    """Scale letter in ``name``, or the only one that there is, or "", which lets the host choose and say so."""
    scale, scales = guess_model_scale(name), d.get("scales", {})
    if scale and scales and scale not in scales:
        raise ValueError(f"{name} has no scale {scale!r}: choose one of {', '.join(scales)}")
    return next(iter(scales)) if len(scales) == 1 else scale


def _paper_models() -> Iterator[ZooModel]:
    for suffix in ("", "-cls"):
        for scale in "nsm":
            yield ZooModel(f"yolo11{scale}{suffix}-pst.yaml", TASKS[suffix], scale)
    for suffix in ("", "-cls"):
        for resnet, (_, width) in _RESNETS.items():
            yield ZooModel(f"{resnet}{suffix}-pst.yaml", TASKS[suffix], {0.25: "n", 0.50: "s"}[width])


def _necks() -> Iterator[ZooModel]:
    installed = _installed()
    for host in HOSTS:
        for suffix, task in TASKS.items():
            if f"{host}{suffix}.yaml" in installed:
                for scale in SCALES:
                    yield ZooModel(f"{host}{scale}-pst-neck{suffix}.yaml", task, scale)
    for scale in "lx":
        yield ZooModel(f"rtdetr-{scale}-pst.yaml", "detect", scale)
