"""LibreYOLO saves, finds, rebuilds and refuses such models by itself, in any process that imports the adapter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("libreyolo", reason="LibreYOLO is not installed")

from libreyolo import LibreYOLO, LibreYOLO9, LibreYOLO9P2
from libreyolo.training import ddp_spawn

import pst
from pst.control.layers import find_attention
from pst.functional.selection import Window
from pst.integrations.libreyolo import LibreYOLO9PST, add_pst

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # the host's loss
IMAGES = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)


def host(family: Any = LibreYOLO9, **options: Any) -> Any:
    return family(None, **({"size": "t", "device": "cpu", "nb_classes": 3} | options))


def predictions(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.model.eval()(IMAGES)["predictions"]


def test_a_fresh_process_loads_what_was_saved_once_it_imports_the_adapter(tmp_path):
    model: Any = add_pst(host(), levels=[8], depth=2, topk=1, similarity="cosine")
    pst.set_options(model.model, topk=10**6, selection=Window(grid=2), max_tokens=9)
    model.names = {0: "red", 1: "platelet", 2: "white"}
    model.save(str(tmp_path / "a.pt"))
    torch.save(predictions(model), tmp_path / "y.pt")
    code = (
        "import torch\n"
        "from libreyolo import LibreYOLO\n"
        "try:\n"
        "    LibreYOLO('a.pt', device='cpu')\n"
        "except RuntimeError as error:\n"
        "    assert 'yolo9_pst' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('LibreYOLO alone must refuse it')\n"
        "import pst.control.layers, pst.integrations.libreyolo as adapter\n"
        "model = LibreYOLO('a.pt', device='cpu')\n"
        "assert type(model) is adapter.LibreYOLO9PST, model\n"
        "images = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)\n"
        "assert torch.equal(model.model(images)['predictions'], torch.load('y.pt'))\n"
        "layers = pst.control.layers.find_attention(model.model)\n"
        "print(list(layers), {layer.settings for layer in layers.values()}, model.names)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    settings = {layer.settings for layer in find_attention(model.model).values()}
    assert done.stdout.strip() == f"{list(find_attention(model.model))} {settings} {model.names}"


@pytest.mark.parametrize("family", [LibreYOLO9, LibreYOLO9P2])
def test_the_hosts_own_checkpoints_stay_the_hosts(family, tmp_path):
    model = host(family)
    model.save(str(tmp_path / "host.pt"))
    torch.save(model.model.state_dict(), tmp_path / "bare.pt")
    for name in ("host.pt", "bare.pt"):
        assert type(LibreYOLO(str(tmp_path / name), device="cpu")) is family


def test_a_selection_rule_of_the_users_own_is_not_written(tmp_path):
    class Own(Window): ...

    model: Any = add_pst(host())
    pst.set_selection(model.model, Own(grid=2))
    with pytest.raises(TypeError, match="selection rule"):
        model.save(str(tmp_path / "a.pt"))
    assert not (tmp_path / "a.pt").exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with PST at stride 16."""
    return Path(add_pst(host(), levels=[16]).save(str(tmp_path_factory.mktemp("saved") / "a.pt")))


def drop_layer(content: Any) -> None:
    content["model"] = {n: t for n, t in content["model"].items() if not n.startswith("neck.elan_up1.pst.blocks")}


def settings(**values: Any) -> Any:
    return lambda c: next(iter(c["pst"]["settings"].values())).update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("pst"), "does not say how its PST layers are built"),
        (lambda c: c.update(pst=[1]), "does not say"),
        (lambda c: c["pst"].update(options=3), "does not say"),
        (lambda c: c["pst"].update(levels=[7]), "levels"),
        (lambda c: c["pst"].update(levels=None), "does not say"),
        (lambda c: c["pst"]["options"].update(wiring="add"), "wiring"),
        (lambda c: c["pst"]["options"].update(depth=10**9), "1000000000"),
        (lambda c: c["pst"]["options"].update(expansion=50_000), "far more than|multiple"),
        (lambda c: c["pst"]["options"].update(mlp_ratio=90_000.0), "far more than"),
        (lambda c: c["pst"]["options"].update(depth=2), "missing"),
        (lambda c: c["pst"]["options"].update(depth="2"), "depth|str"),
        (settings(topk=-1), "topk"),
        (settings(selection="no such rule"), "selection"),
        (settings(colour=1), "colour"),
        (lambda c: c["pst"]["settings"].update(head={"topk": 1}), "head"),
        (drop_layer, r"neck\.elan_up1\.pst\.blocks"),
    ],
)
def test_damaged_checkpoints(change, said, saved, tmp_path):
    content = torch.load(saved, weights_only=True)
    change(content)
    path = str(tmp_path / "damaged.pt")
    torch.save(content, path)
    with pytest.raises(RuntimeError, match=f"(?s)damaged.pt.*({said})"):
        LibreYOLO(path, device="cpu")


def test_processes_of_a_training_on_several_gpus_start_from_the_same_model(tmp_path):
    model: Any = add_pst(host(), levels=[8], depth=2)
    pst.set_topk(model.model, 5)
    arguments = ddp_spawn._build_init_kw(model)
    torch.save(ddp_spawn._bootstrap_checkpoint(model), tmp_path / "start.pt")
    module, name = arguments.pop("_module"), arguments.pop("_class")
    worker = getattr(sys.modules[module], name)(str(tmp_path / "start.pt"), **arguments)
    assert type(worker) is LibreYOLO9PST
    assert {layer.topk for layer in find_attention(worker.model).values()} == {5}
    assert torch.equal(predictions(worker), predictions(model))
