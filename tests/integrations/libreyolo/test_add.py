"""What add_pst replaces, what it keeps, what it refuses; and that the result learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("libreyolo", reason="LibreYOLO is not installed")

from libreyolo import LibreYOLO9, LibreYOLO9P2, LibreYOLOX
from PIL import Image
from torchvision.ops import box_iou

import pst
from pst.control.layers import find_attention
from pst.integrations.libreyolo import LibreYOLO9P2PST, LibreYOLO9PST, add_pst

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # the host's loss
FAMILIES = {LibreYOLO9: LibreYOLO9PST, LibreYOLO9P2: LibreYOLO9P2PST}
BLOCKS = {16: "neck.elan_up1.", 8: "neck.elan_up2.", 4: "neck.elan_up3."}


def host(family: Any = LibreYOLO9, **options: Any) -> Any:
    return family(None, **({"size": "t", "device": "cpu", "nb_classes": 3} | options))


@pytest.mark.parametrize(
    ("family", "levels", "replaced"),
    [
        (LibreYOLO9, None, (16, 8)),
        (LibreYOLO9, [8], (8,)),
        (LibreYOLO9P2, None, (16, 8, 4)),
        (LibreYOLO9P2, (4,), (4,)),
    ],
)
def test_every_other_weight_is_the_hosts(family, levels, replaced):
    before = host(family, reg_max=8)
    before.names = {0: "red", 1: "platelet", 2: "white"}
    before.model.eval()
    kept = {name: t.clone() for name, t in before.model.state_dict().items()}
    model: Any = add_pst(before, levels=levels)
    assert type(model) is FAMILIES[family]
    state = model.model.state_dict()
    gone = {name for name in kept if name.startswith(tuple(BLOCKS[level] for level in replaced))}
    assert gone
    assert all(torch.equal(state[name], kept[name]) for name in kept.keys() - gone)
    fresh = state.keys() - kept.keys()
    assert all(".pst." in name for name in fresh)
    assert len(find_attention(model.model)) == len(replaced)
    assert (model.names, model.nb_classes, model.reg_max) == (before.names, 3, 8)
    assert not any(m.training for m in model.model.modules())
    assert all(torch.equal(t, kept[name]) for name, t in before.model.state_dict().items())  # left as it was
    assert not find_attention(before.model)


def test_a_layer_gets_the_concatenation_and_the_very_map_that_was_upsampled():
    model: Any = add_pst(host())
    seen, maps = [], []
    for block in (model.model.neck.elan_up1, model.model.neck.elan_up2):
        block.pst.register_forward_hook(lambda m, args, y: seen.append((*args, y)))
    model.model.neck.register_forward_pre_hook(lambda m, args: maps.extend(args))
    model.model.eval()(torch.rand(1, 3, 64, 96))
    p3, p4, p5 = maps
    (x4, upper4, n4), (x3, upper3, _) = seen
    assert torch.equal(upper4, p5)
    assert torch.equal(upper3, n4)
    assert torch.equal(x4, torch.cat([nn.functional.interpolate(p5, scale_factor=2), p4], 1))
    assert torch.equal(x3, torch.cat([nn.functional.interpolate(n4, scale_factor=2), p3], 1))


def test_options_reach_the_layers_and_switches_act():
    model: Any = add_pst(host(), topk=3, depth=2, head_dim=16, similarity="cosine")
    layers = find_attention(model.model)
    assert [(layer.topk, layer.dim // layer.num_heads) for layer in layers.values()] == [(3, 16)] * 4
    network, images, fused = model.model.eval(), torch.rand(2, 3, 64, 64), []
    network.neck.elan_up2.register_forward_hook(lambda m, args, y: fused.append(y))
    with torch.no_grad():
        network(images)
        pst.set_topk(network, 0)
        network(images)
        pst.set_max_tokens(network, 1)
        network(images)
    assert all(y.shape == (2, 64, 8, 8) and y.isfinite().all() for y in fused)
    assert not torch.equal(fused[0], fused[1])
    assert not torch.equal(fused[1], fused[2])


@pytest.mark.parametrize(("family", "size"), [(LibreYOLO9, "m"), (LibreYOLO9, "c"), (LibreYOLO9P2, "s")])
def test_every_size_can_have_it(family, size):
    model: Any = add_pst(host(family, size=size), topk=1)
    widths = {layer.dim // layer.num_heads for layer in find_attention(model.model).values()}
    assert widths <= {32, 30}  # 180 and 120 channels, of size m, are not multiples of 32
    with torch.no_grad():
        assert model.model.eval()(torch.rand(1, 3, 32, 64))["predictions"].isfinite().all()


def test_every_parameter_gets_a_gradient_and_four_images_are_learned_by_heart(learned, four):
    model, losses = learned
    assert losses[-1] < max(losses) / 4
    assert [name for name, p in model.model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    images, targets = four
    for image, target in zip(images, targets, strict=True):
        pixels = Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy())
        boxes = model(pixels, imgsz=64, conf=0.5).boxes
        assert boxes.cls.tolist() == [round(float(target[0, 0]))]
        assert float(box_iou(boxes.xyxy[:1], 64 * target[:1, 1:])) > 0.7  # to a few pixels


def test_the_hosts_fuse_reaches_pst(learned, four):
    network, (images, _) = copy.deepcopy(learned[0].model), four
    with torch.no_grad():
        before = network(images)["predictions"]
        network.fuse()
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.neck.elan_up1.modules())
        torch.testing.assert_close(network(images)["predictions"], before, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"levels": [32]}, ValueError, r"levels must be different strides among \[16, 8\].*got \[32\]"),
        ({"levels": [4]}, ValueError, r"\[16, 8\]"),
        ({"levels": []}, ValueError, "at least one"),
        ({"levels": [8, 8]}, ValueError, "different"),
        ({"levels": [True]}, ValueError, "strides"),
        ({"levels": 8}, TypeError, "list or tuple of strides, got 8"),
        ({"levels": "8"}, TypeError, "list or tuple"),
        ({"levels": ["8"]}, ValueError, "strides"),
        ({"wiring": "add"}, TypeError, "no option wiring"),
        ({"width": 3}, TypeError, "no option width: choose among .*depth"),
        ({"topk": -1}, ValueError, "topk"),
        ({"topk": 1.5}, TypeError, "topk"),
        ({"head_dim": 7}, ValueError, "head_dim"),
        ({"depth": 0}, ValueError, "depth"),
        ({"expansion": 0}, ValueError, "expansion"),
        ({"fusion": "sum"}, ValueError, "fusion"),
    ],
)
def test_wrong_arguments(options, error, said):
    model = host()
    with pytest.raises(error, match=said):
        add_pst(model, **options)
    assert not find_attention(model.model)


def test_models_that_cannot_have_it():
    model: Any = host()
    with pytest.raises(TypeError, match="got a LibreYOLO9Model"):
        add_pst(model.model)
    with pytest.raises(TypeError, match="got a LibreYOLO9PST"):
        add_pst(add_pst(model))
    with pytest.raises(TypeError, match=r"got a LibreYOLOX.*docs/libreyolo\.md"):
        add_pst(LibreYOLOX(None, size="n", device="cpu"))
