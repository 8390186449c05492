"""Networks of transformers as bodies: maps, weights, saved models without the Hub, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from messages import says

transformers: Any = pytest.importorskip("transformers")

from pst.backbones import build_body  # noqa: E402
from pst.backbones.transformers_network import read_config  # noqa: E402
from pst.integrations.segmentation import PSTSegmenter  # noqa: E402
from pst.integrations.torchvision import PSTDetector, fcos  # noqa: E402
from pst.io.checkpoints import save_safetensors  # noqa: E402

VIT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
PLAIN: dict[str, Any] = {
    "vit": transformers.ViTConfig(**VIT, image_size=32),
    "deit": transformers.DeiTConfig(**VIT, image_size=32),
    "dinov2": transformers.Dinov2Config(**VIT, patch_size=14, image_size=28),
    "registers": transformers.Dinov2WithRegistersConfig(**VIT, patch_size=14, image_size=28, num_register_tokens=3),
    "dinov3": transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4),
}
HIERARCHIES: dict[str, Any] = {
    "resnet": transformers.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES),
    "convnext": transformers.ConvNextConfig(**STAGES),
    "swin": transformers.SwinConfig(**SWIN),
    "swinv2": transformers.Swinv2Config(**SWIN),
    "timm": transformers.TimmBackboneConfig(backbone="test_efficientnet"),
}
IMAGE = torch.rand(1, 3, 70, 101)
every_network = pytest.mark.parametrize("name", [*PLAIN, *HIERARCHIES])


def body_of(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = {**PLAIN, **HIERARCHIES}[name]
    return build_body(config, **({"width": 16} if name in PLAIN else {}), **options)


@every_network
def test_maps_have_the_channels_and_reductions_that_the_body_says(name):
    body = body_of(name).eval()
    maps = body(IMAGE)
    assert body.reductions[-4:] == (4, 8, 16, 32)
    assert [*maps] == [str(r) for r in body.reductions]
    assert [y.shape[1] for y in maps.values()] == list(body.channels)
    for r, y in zip(body.reductions, maps.values(), strict=True):
        filled = [-(-side // body.multiple) * body.multiple for side in IMAGE.shape[2:]]
        assert all(abs(side / r - n) < 1 for side, n in zip(filled, y.shape[2:], strict=True))


@every_network
def test_what_trains_gets_a_gradient(name):
    body = body_of(name).train()
    torch.stack([y.square().sum() for y in body(torch.rand(2, 3, 64, 64)).values()]).sum().backward()
    lacking = [n for n, p in body.named_parameters() if p.requires_grad == (p.grad is None)]
    assert lacking == []


@pytest.mark.parametrize("name", PLAIN)
def test_the_map_is_the_last_patch_tokens_after_the_norm(name):
    body = body_of(name, frozen=True).eval()
    config = PLAIN[name]
    model = transformers.AutoModel.from_config(config).eval()
    model.load_state_dict(body.model.state_dict(), strict=False)
    x = torch.rand(1, 3, 4 * config.patch_size, 6 * config.patch_size)
    tokens = model(x, **({"interpolate_pos_encoding": True} if name in ("vit", "deit") else {})).last_hidden_state
    assert tokens.shape[1] > 24
    torch.testing.assert_close(body.tokens(x), tokens[:, -24:].transpose(1, 2).reshape(1, 32, 4, 6))


def test_frozen_keeps_the_transformer_and_trains_the_levels():
    body = body_of("dinov2", frozen=True).train()
    assert not any(m.training for m in body.model.modules())
    assert {n.partition(".")[0] for n, p in body.named_parameters() if p.requires_grad} == {"pyramid"}


def test_stages_after_the_coarsest_map_do_not_train():
    body = body_of("resnet", coarsest=16)
    assert body.reductions == (4, 8, 16)
    left = {n for n, p in body.named_parameters() if not p.requires_grad}
    assert left
    assert all(n.startswith("model.encoder.stages.3.") for n in left)


def test_other_channels_and_options_of_the_configuration():
    assert body_of("dinov2", in_channels=5)(torch.rand(1, 5, 32, 32))["16"].shape == (1, 16, 2, 2)
    assert body_of("dinov2", num_hidden_layers=1).network_config["num_hidden_layers"] == 1
    assert PLAIN["dinov2"].num_hidden_layers == 2  # what was given is left alone
    frozen = build_body(HIERARCHIES["resnet"], frozen_batchnorm=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())


# ------------------------------------------------------------------------------------------------------------- weights


def classifier(name: str) -> Any:
    torch.manual_seed(1)
    kind = transformers.AutoModel if name == "dinov3" else transformers.AutoModelForImageClassification
    return kind.from_config({**PLAIN, **HIERARCHIES}[name]).eval()


@pytest.mark.parametrize("name", ["vit", "dinov2", "registers", "dinov3", "resnet", "convnext", "swin"])
def test_a_classifiers_weights_are_taken_by_its_names(name, tmp_path):
    model = classifier(name)
    path = tmp_path / "model.safetensors"
    save_safetensors(model.state_dict(), path, {})
    body = body_of(name, weights=path)
    theirs = {n.removeprefix(f"{model.base_model_prefix}."): t for n, t in model.state_dict().items()}
    ours = {n.removeprefix(f"{model.base_model_prefix}."): t for n, t in body.model.state_dict().items()}
    shared = theirs.keys() & ours.keys()
    assert len(shared) > 10
    assert all(torch.equal(ours[n], theirs[n]) for n in shared)
    again = body_of(name, weights=body.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(body.state_dict().values(), again.state_dict().values(), strict=True))


def test_indices_of_positions_that_older_files_have_are_no_weights():
    state = classifier("swin").state_dict()
    [table, *_] = [n for n in state if n.endswith("relative_position_bias_table")]
    state.setdefault(table.replace("bias_table", "index"), torch.zeros(49, 49, dtype=torch.int64))
    given = body_of("swin", weights=state).state_dict()
    assert torch.equal(*(next(t for n, t in s.items() if n.endswith(table.partition(".")[2])) for s in (given, state)))
    state[table] = state[table].long()
    with pytest.raises(ValueError, match=says("relative_position_bias_table is torch.int64")):
        body_of("swin", weights=state)


def test_weights_of_colour_images_are_adapted():
    grey = body_of("dinov2", weights=classifier("dinov2").state_dict(), in_channels=1)
    colour = classifier("dinov2").state_dict()["dinov2.embeddings.patch_embeddings.projection.weight"]
    projection = grey.model.embeddings.patch_embeddings.projection
    torch.testing.assert_close(projection.weight, colour.sum(1, keepdim=True))
    assert grey(torch.rand(1, 1, 32, 32))["16"].shape == (1, 16, 2, 2)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: s.pop("dinov2.layernorm.bias"), "1 missing, e.g. layernorm.bias"),
        (lambda s: s.update({"decoder.weight": torch.zeros(2)}), "1 unknown, e.g. decoder.weight"),
        (lambda s: s.update({"dinov2.layernorm.bias": torch.zeros(7)}), "1 of another shape … (7,) … (32,)"),
        (lambda s: s.update({"dinov2.layernorm.bias": torch.full((32,), torch.nan)}), "NaN"),
        (lambda s: s.update({"dinov2.layernorm.bias": torch.zeros(32, dtype=torch.int64)}), "int64"),
    ],
)
def test_other_weights_are_refused(change, parts):
    state = dict(classifier("dinov2").state_dict())
    change(state)
    with pytest.raises(ValueError, match=says(parts)):
        body_of("dinov2", weights=state)


# --------------------------------------------------------------------------------------------------------- saved models

LOADING = """
import sys
from pathlib import Path
import torch
from pst.integrations.{module} import {kind}
import huggingface_hub
model = {kind}.from_pretrained(sys.argv[1])
torch.save(model.state_dict(), Path(sys.argv[1], "again.pt"))
"""


@pytest.mark.parametrize("name", ["registers", "resnet", "timm"])
def test_a_saved_segmenter_is_built_again_of_its_own_configuration(name, tmp_path):
    config = {**PLAIN, **HIERARCHIES}[name]
    model = PSTSegmenter(config, classes=3, decoder_pyramid_channels=64).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["encoder_name"]["model_type"] == config.model_type
    assert torch.equal(PSTSegmenter.from_pretrained(tmp_path)(IMAGE), model(IMAGE))


def test_a_name_on_the_hub_is_saved_as_what_it_stands_for_and_needs_no_network_again(tmp_path):
    """A folder stands for the Hub; it is gone when another process loads the model."""
    hub = tmp_path / "hub"
    classifier("dinov2").save_pretrained(hub)
    model = PSTDetector("fcos", f"hf:{hub}", 3, pretrained=True, backbone_options={"out_channels": 64}).eval()
    published = classifier("dinov2").state_dict()["dinov2.layernorm.weight"]
    assert torch.equal(model.state_dict()["model.backbone.body.model.layernorm.weight"], published)
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    assert str(hub) not in (saved / "config.json").read_text()
    for file in hub.iterdir():
        file.unlink()
    code = LOADING.format(module="torchvision", kind="PSTDetector")
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True, env=_offline())
    again = torch.load(saved / "again.pt")
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[n], t) for n, t in model.state_dict().items())


def _offline() -> dict[str, str]:
    import os

    return {**os.environ, "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize(
    "encoder",
    [
        "hf:facebook/dinov2-small",
        {"model_type": "timm_backbone", "backbone": "hf-hub:someone/net"},
        {"model_type": "dinov2", "attn_implementation": "someone/kernels"},
        {"model_type": "dinov2", "auto_map": {"AutoBackbone": "someone/net--code.Net"}},
        {"model_type": "dinov2", "pretrained_model_name_or_path": "net"},
    ],
)
def test_a_file_that_would_fetch_something_is_refused(encoder, tmp_path):
    PSTSegmenter(PLAIN["dinov2"], classes=3, decoder_pyramid_channels=64).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"encoder_name": encoder}))
    with pytest.raises(ValueError, match=says(str(tmp_path))):
        PSTSegmenter.from_pretrained(tmp_path)


def test_only_fields_of_the_networks_own_class_count():
    fields = {**PLAIN["dinov2"].to_dict(), "auto_map": {"AutoBackbone": "code.Net"}, "attn_implementation": "a/kernel"}
    config: Any = read_config(fields | {"dtype": "float16", "quantization_config": {"quant_method": "x"}}, {})
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "quantization_config")
    assert config._attn_implementation != "a/kernel"
    body: Any = build_body(config)
    assert body.model.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("source", "options", "parts"),
    [
        ({"model_type": "dinov9"}, {}, "model_type … 'dinov9' … dinov2"),
        ({"hidden_size": 3}, {}, "model_type … None"),
        (transformers.BertConfig(), {}, "bert … AutoBackbone"),
        (PLAIN["dinov2"], {"hidden_sise": 3}, "hidden_sise … hidden_size"),
        (PLAIN["dinov2"], {"pretrained": True}, "configuration … a name, or weights"),
        (PLAIN["dinov2"], {"library": "torchvision"}, "library='torchvision'"),
        (HIERARCHIES["resnet"], {"frozen": True}, "resnet … hierarchy … frozen"),
        (HIERARCHIES["resnet"], {"coarsest": 64}, "[4, 8, 16, 32] … 64"),
        ({"model_type": "dinov2", "hidden_size": "wide"}, {}, "Dinov2Config … hidden_size"),
        ({"model_type": "dinov2", "hidden_act": "nonsense"}, {}, "dinov2 … cannot be built"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(source, options, parts):
    with pytest.raises(ValueError, match=says(parts)):
        build_body(source, **options)


def test_neither_a_name_nor_a_configuration():
    with pytest.raises(TypeError, match=says("name … configuration … int")):
        build_body(3)  # type: ignore[arg-type]


def test_a_name_without_the_network_says_what_helps(tmp_path):
    code = "from pst.backbones import build_body; build_body('hf:facebook/dinov2-small')"
    env = {**_offline(), "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert "OSError: the configuration of hf:facebook/dinov2-small is not at hand" in done.stderr
    assert "offline give transformers' configuration" in done.stderr


def test_a_missing_transformers_names_the_range(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "4.57.1")
    with pytest.raises(ImportError, match=says("a backbone of transformers needs transformers ≥ … < 6 … found 4.57.1")):
        build_body(PLAIN["dinov2"])


def test_torchvisions_detector_learns_on_it():
    torch.manual_seed(0)
    model = fcos(PLAIN["dinov2"], 2, min_size=64, max_size=64, backbone_options={"out_channels": 64})
    images = [torch.rand(3, 64, 64)]
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 48]]), "labels": torch.tensor([1])}]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.stack(list(model.train()(images, targets).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_a_folder_is_a_name_too(tmp_path: Path):
    classifier("resnet").save_pretrained(tmp_path)
    body: Any = build_body(f"hf:{tmp_path}", pretrained=True)
    want = classifier("resnet").state_dict()["resnet.embedder.embedder.convolution.weight"]
    assert torch.equal(body.state_dict()["model.embedder.embedder.convolution.weight"], want)
