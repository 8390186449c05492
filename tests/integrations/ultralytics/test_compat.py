"""A version of Ultralytics that moved what pst hooks into gives one message, and is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import ultralytics
from torch import nn
from ultralytics.data import utils as data_utils
from ultralytics.engine.model import Model
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn import tasks
from ultralytics.utils import dist, patches, torch_utils

from pst.integrations.ultralytics import parser, register, unregister

HOOKED = [
    (tasks, "parse_model"), (tasks, "yaml_model_load"), (patches, "torch_load"), (data_utils, "check_det_dataset"),
    (data_utils, "load_dataset_cache_file"), (Model, "train"),
    (BaseTrainer, "resume_training"), (dist, "generate_ddp_file"), (torch_utils, "get_flops"),
]  # fmt: skip
Change = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def unregistered():
    unregister()
    yield
    unregister()


def fails(function: str, reason: str) -> None:
    """``register`` raises the message, for this function and reason, and wraps nothing."""
    before = {(owner, name): getattr(owner, name, None) for owner, name in HOOKED}
    message = (
        rf"^pst's hook into ultralytics {ultralytics.__version__}'s {function} failed: {reason}; "
        r"tested with ultralytics ≥ 8\.4\.167 and < 8\.5: .*pip install 'pyramid-sparse-transformer\[ultralytics\]'$"
    )
    with pytest.raises(ImportError, match=message):
        register()
    assert {(owner, name): getattr(owner, name, None) for owner, name in HOOKED} == before


@pytest.mark.parametrize(("owner", "name"), HOOKED)
def test_a_function_that_is_gone(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(owner, name)
    inherited = owner is Model  # train is then torch's own
    fails(name, "its signature is .*, wanted one .*" if inherited else f"{owner.__name__} has no such function")


@pytest.mark.parametrize(("owner", "name"), [hook for hook in HOOKED if hook[1] != "torch_load"])  # it takes anything
def test_a_function_with_other_parameters(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, lambda config: None)
    fails(name, r"its signature is \(config\), wanted one that begins \(.*\)")


def with_parser(change: Callable[[Any], Any]) -> Change:
    """A host whose parser is ``change`` of the original parser's result."""
    original = tasks.parse_model

    def parse_model(d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
        return change(original(d, ch, verbose))

    return lambda monkeypatch: monkeypatch.setattr(tasks, "parse_model", parse_model)


def without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tasks, "Index")


def with_another_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "Index", type("Pick", (nn.Identity,), {}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_index, r"NameError\(.*Index.*\)|KeyError\('Index'\)"),
        (with_another_index, r"KeyError\('Index'\)|a row Index gave a Pick"),
        (with_parser(lambda result: {"layers": result[0]}), r"KeyError\(0\)"),
        (with_parser(lambda result: (result[0][1:], result[1])), "a row Index gave a Conv"),
        (with_parser(lambda result: (result[0][:-1], result[1])), "a row BatchNorm2d gave a Conv"),
        (with_parser(lambda result: (widen(result[0]), result[1])), r"widths and rows in use are \(9, 17, .*"),
    ],
)
def test_a_parser_that_does_something_else(change: Change, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch)
    fails("parse_model", reason)


def widen(layers: Any) -> Any:
    """Norms one channel wider than their input."""
    return [nn.BatchNorm2d(m.num_features + 1) if isinstance(m, nn.BatchNorm2d) else m for m in layers]


def test_a_parser_that_changes_later_is_found_where_a_model_is_built() -> None:
    def original(d: dict[str, Any], ch: int, verbose: bool) -> Any:
        return nn.Sequential(*(nn.Identity() for _ in d["head"])), []

    rows = [[-1, 1, "Conv", [8]], [[0, 0], 1, "PST", [32]]]
    with pytest.raises(ImportError, match=r"parse_model failed: a row Index gave a Identity; tested with"):
        parser.parse(original, {"backbone": rows, "head": []}, 3)


def test_a_mistake_in_a_yaml_stays_the_hosts_own_error() -> None:
    register()
    rows = [[-1, 1, "Conv", [8]], [[0, 0], 1, "PST", [64]], [-1, 1, "NoSuchLayer", []]]
    model: Any = tasks.DetectionModel
    with pytest.raises(KeyError, match="NoSuchLayer"):
        model({"nc": 1, "backbone": rows, "head": []}, verbose=False)


def test_the_check_leaves_no_trace() -> None:
    state = torch.get_rng_state()
    register()
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.empty(0).is_meta
