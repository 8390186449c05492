from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchvision")
pytest.importorskip("timm")

from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

import pst
from battery import filled
from pst.export import to_onnx
from pst.integrations.torchvision import (
    Detections,
    PSTDetector,
    RawHeads,
    anchors,
    faster_rcnn,
    fcos,
    mask_rcnn,
    pst_backbone,
    retinanet,
)
from pst.modules import Laterals

BUILDERS = {"retinanet": retinanet, "fcos": fcos, "faster_rcnn": faster_rcnn, "mask_rcnn": mask_rcnn}
DOCUMENT = Path(__file__).parents[2] / "docs" / "torchvision.md"
NECKS: dict[str, dict[str, Any]] = {"default": {}, "pst": {"neck": "pst"}, "none": {"neck": "none"}}
every_detector = pytest.mark.parametrize("name", BUILDERS)


def detector(name: str, size: int = 64, **options: Any) -> Any:
    """A small detector of two classes and a background, for square images."""
    torch.manual_seed(0)
    layers = {} if name in ("retinanet", "fcos") else {"returned_layers": (2, 3, 4)}
    more = layers | {"out_channels": 64} | options.pop("backbone_options", {})
    options = {"neck": "pst", "min_size": size, "max_size": size, **options}
    return BUILDERS[name]("resnet18", 3, backbone_options=more, **options)


def pictures(n: int, size: int = 64) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images with a red rectangle (label 1) and a green one (label 2), a little elsewhere in each."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for i in range(n):
        boxes = torch.tensor([[4.0 + 2 * i, 5 + i, 26 + 2 * i, 33 + i], [34 - i, 26 - 2 * i, 60 - i, 55 - 2 * i]])
        image, masks = (
            0.2 * torch.rand(3, size, size, generator=generator),
            torch.zeros(2, size, size, dtype=torch.uint8),
        )
        for j, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
            image[j, y1:y2, x1:x2] = masks[j, y1:y2, x1:x2] = 1
        images.append(image)
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks})
    return images, targets


@every_detector
def test_the_neck_is_torchvisions_unless_another_is_asked_for(name):
    necks = {neck: BUILDERS[name]("resnet18", 3, **more).backbone.fpn for neck, more in NECKS.items()}
    assert {neck: type(module) for neck, module in necks.items()} == {
        "default": FeaturePyramidNetwork,
        "pst": pst.PSTPyramid,
        "none": Laterals,
    }
    assert type(PSTDetector(name, "resnet18", 3).model.backbone.fpn) is pst.PSTPyramid  # as its name says


# ------------------------------------------------------------------------------------------------------------ backbone


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize(
    ("extra", "names", "reductions"),
    [
        (None, ["0", "1", "2"], (8, 16, 32)),
        ("pool", ["0", "1", "2", "pool"], (8, 16, 32, 64)),
        ("p6p7", ["0", "1", "2", "p6", "p7"], (8, 16, 32, 64, 128)),
    ],
)
def test_a_backbone_yields_what_torchvision_reads(library, extra, names, reductions):
    backbone = pst_backbone(
        "resnet18", library=library, out_channels=64, returned_layers=(2, 3, 4), extra_levels=extra
    ).eval()
    maps = backbone(torch.rand(2, 3, 128, 256))
    assert backbone.out_channels == 64
    assert backbone.reductions == reductions
    assert backbone.fused == ["0", "1", "2"]
    assert [*maps] == names
    assert [tuple(y.shape) for y in maps.values()] == [(2, 64, 128 // r, 256 // r) for r in reductions]


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("mobilenetv4_conv_small", "timm"),
        ("convnext_atto", "timm"),
        ("mobilenet_v3_small", "torchvision"),
        ("regnet_y_400mf", "torchvision"),
        ("swin_t", "torchvision"),
    ],
)
def test_other_networks_give_the_same_levels(name, library):
    backbone = pst_backbone(name, library=library, out_channels=64)
    maps = backbone(torch.rand(2, 3, 64, 96))
    assert [tuple(y.shape[2:]) for y in maps.values()] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    torch.stack([y.sum() for y in maps.values()]).sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("last", [2, 3])
def test_stages_after_the_last_level_are_left_out(last):
    for library in ("timm", "torchvision"):
        names = [n for n, _ in pst_backbone("resnet18", library=library, returned_layers=(1, last)).named_parameters()]
        assert any(f"layer{last}" in n for n in names)
        assert not any(f"layer{last + 1}" in n for n in names)


@pytest.mark.parametrize("layers", [0, 1, 3, 4, 5])
def test_trainable_layers_are_torchvisions(layers):
    ours = pst_backbone("resnet18", neck="fpn", library="torchvision", trainable_layers=layers)
    theirs = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=layers
    )
    trained = {n for n, p in theirs.named_parameters() if p.requires_grad}
    if layers == 4:  # torchvision's stem is a convolution and, with the fifth layer only, its norm; ours is both
        trained -= {"body.bn1.weight", "body.bn1.bias"}
    assert {n for n, p in ours.named_parameters() if p.requires_grad} == trained
    timms = pst_backbone("resnet18", neck="fpn", trainable_layers=layers)
    assert {n.replace("body.model.", "body.") for n, p in timms.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_frozen_batchnorm_keeps_values_and_statistics(library):
    torch.manual_seed(0)
    plain = pst_backbone("resnet18", library=library, out_channels=64)
    frozen = pst_backbone("resnet18", library=library, out_channels=64, frozen_batchnorm=True)
    x = torch.rand(2, 3, 64, 64)
    plain.train()(x)  # statistics of its own
    frozen.load_state_dict({k: v for k, v in plain.state_dict().items() if k in frozen.state_dict()})
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.body.modules())
    for a, b in zip(plain.eval().body(x).values(), frozen.train().body(x).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_control_is_torchvisions_own_backbone():
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    ours = pst_backbone("resnet18", neck="fpn", library="torchvision")
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 64, 96)
    a, b = theirs.eval()(x), ours.eval()(x)
    assert [*a] == [*b]
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_anchors_are_torchvisions():
    options = {"backbone_name": "resnet18", "weights": None}
    one_stage = resnet_fpn_backbone(**options, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    ours, theirs = retinanet("resnet18", 3).anchor_generator, RetinaNet(one_stage, 3).anchor_generator
    assert (ours.sizes, ours.aspect_ratios) == (theirs.sizes, theirs.aspect_ratios)
    ours, theirs = faster_rcnn("resnet18", 3).rpn, FasterRCNN(resnet_fpn_backbone(**options), 3).rpn
    sizes = [getattr(rpn.anchor_generator, "sizes") for rpn in (ours, theirs)]  # noqa: B009 - typed as a Tensor
    assert sizes[0] == sizes[1] == ((32,), (64,), (128,), (256,), (512,))
    assert fcos("resnet18", 3).anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))  # FCOS's own default


def test_anchors_follow_the_levels():
    backbone = pst_backbone("resnet18", returned_layers=(1, 2), extra_levels=None)
    assert anchors(backbone, scale=4, octaves=2).sizes == ((16, 22), (32, 45))
    assert retinanet(backbone, 2).anchor_generator.sizes == ((16, 20, 25), (32, 40, 50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, "timm has no model 'resnet81': names like it are .*resnet18"),
        ({"name": "resnet81", "library": "torchvision"}, "no network 'resnet81'; names like it: .*resnet18"),
        ({"name": "vit_b_16", "library": "torchvision"}, "no feature maps of several resolutions"),
        ({"library": "keras"}, r"library must be one of timm, torchvision, got 'keras'"),
        ({"neck": "pan"}, r"neck must be one of pst, fpn, none, got 'pan'"),
        ({"neck": "fpn", "topk": 8}, 'neck="fpn" has no attention, got topk=8'),
        ({"neck": "none", "topk": 8}, 'neck="none" has no attention, got topk=8'),
        ({"neck": "none", "neck_options": {"depth": 2}}, 'neck="none" has no options, got .*depth'),
        ({"neck": "fpn", "neck_options": {"max_tokens": 9}}, 'neck="fpn" has the option norm_layer alone'),
        ({"returned_layers": (2, 2)}, r"rising stages from 1 .*got \[2, 2\]"),
        ({"returned_layers": (4, 5)}, r"rising stages from 1 .*got \[4, 5\]"),
        ({"extra_levels": "p6"}, "extra_levels must be one of .*got 'p6'"),
        ({"trainable_layers": 6}, "from 0 to 5, got 6"),
    ],
)
def test_errors_say_what_was_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        pst_backbone(**({"name": "resnet18"} | options))


@pytest.mark.parametrize(
    ("name", "classes", "options", "message"),
    [
        ("fcos", 0, {}, "num_classes must be at least 1, got 0"),
        ("retinanet", -1, {}, "num_classes must be at least 1, got -1"),
        ("faster_rcnn", 1, {}, "num_classes with the background, which counts as one, must be at least 2, got 1"),
        ("mask_rcnn", 1, {}, "num_classes with the background, which counts as one, must be at least 2, got 1"),
        ("fcos", 3, {"imgsz": 3}, "FCOS has no option 'imgsz': it takes min_size, max_size, "),
        ("retinanet", 3, {"score_tresh": 0.5}, "RetinaNet has no option 'score_tresh': did you mean 'score_thresh'?"),
        ("faster_rcnn", 3, {"min_sise": 64}, "FasterRCNN has no option 'min_sise': did you mean 'min_size'?"),
        ("mask_rcnn", 3, {"mask_roi_pol": None}, "no option 'mask_roi_pol': did you mean 'mask_roi_pool'?"),
        ("fcos", 3, {"pretrain": True}, "FCOS has no option 'pretrain': did you mean 'pretrained'?"),
    ],
)
def test_too_few_classes_and_misspelt_options_are_refused(name, classes, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BUILDERS[name]("resnet18", classes, **options)


def test_options_of_torchvisions_transform_pass():
    model = fcos("resnet18", 1, fixed_size=(64, 96), backbone_options={"out_channels": 64})
    assert model.transform.fixed_size == (64, 96)


def test_a_finished_backbone_takes_no_options():
    backbone = pst_backbone("resnet18", out_channels=64)
    assert faster_rcnn(backbone, 3).backbone is backbone
    with pytest.raises(ValueError, match=r"\['topk'\] describe a backbone to build"):
        faster_rcnn(backbone, 3, topk=8)


def test_a_size_that_was_asked_for_is_the_one_size():
    tiny = {"img_size": 64, "embed_dim": 32, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    backbone = pst_backbone("swin_tiny_patch4_window7_224", out_channels=64, body_options=tiny)
    assert [tuple(y.shape[2:]) for y in backbone(torch.rand(2, 3, 64, 64)).values()] == [
        (16, 16),
        (8, 8),
        (4, 4),
        (2, 2),
        (1, 1),
    ]
    with pytest.raises(ValueError, match=r"takes images of size \(64, 64\) only, got \(64, 96\)"):
        backbone(torch.rand(2, 3, 64, 96))


def test_a_network_of_one_size_says_so():
    backbone = pst_backbone("efficientformer_l1", out_channels=64)
    with pytest.raises(ValueError, match=r"efficientformer_l1 takes images of size \(224, 224\) only, got \(64, 64\)"):
        backbone(torch.rand(1, 3, 64, 64))


# ----------------------------------------------------------------------------------------------------------- detectors


@every_detector
@pytest.mark.parametrize("neck", ["pst", "fpn", "none"])
def test_a_step_trains_every_trainable_parameter(name, neck):
    model = detector(name, neck=neck, backbone_options={"trainable_layers": 3}).train()
    loss = torch.stack([*model(*pictures(2)).values()]).sum()
    assert loss.isfinite()
    loss.backward()
    for key, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, key
        assert p.grad is None or p.grad.isfinite().all(), key
    assert any(not p.requires_grad for p in model.backbone.body.parameters())


def test_without_a_neck_levels_do_not_meet():
    backbone = pst_backbone("resnet18", neck="none", out_channels=64).eval()
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    maps = backbone(image)
    finest = torch.autograd.grad(maps["0"][0, :, 0, 0].sum(), [*backbone.body.parameters()], allow_unused=True)
    assert any(gradient is None for gradient in finest)  # of the deeper stages
    assert {name: y.shape[1] for name, y in maps.items()} == dict.fromkeys(maps, 64)


@every_detector
def test_any_k_runs_and_is_deterministic(name):
    model, (images, targets) = detector(name).train(), pictures(2)
    images = [images[0], images[1][:, :50, :41]]  # sizes that torchvision has to resize and fill up
    model(images[:1] * 2, targets[:1] * 2)  # statistics that are not the initial ones
    model.eval()
    maps = {}
    for k in (0, 8, 8):
        pst.set_topk(model, k)
        with torch.no_grad():
            maps[k], again = model.backbone(images[0][None])["0"], model.backbone(images[0][None])["0"]
            found = model(images)
        assert torch.equal(maps[k], again)
        assert all(f["boxes"].isfinite().all() and f["boxes"].shape == (len(f["scores"]), 4) for f in found)
        if name == "mask_rcnn":
            assert found[1]["masks"].shape[1:] == (1, 50, 41)
    assert not torch.equal(maps[0], maps[8])


def average_overlap(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> float:
    """Mean over all objects of the IoU with the most certain box of the same label; 0 where there is none."""
    with torch.no_grad():
        predictions = model.eval()(images)
    overlaps = []
    for found, wanted in zip(predictions, targets, strict=True):
        for box, label in zip(wanted["boxes"], wanted["labels"], strict=True):
            best = found["boxes"][found["labels"] == label][:1]
            overlaps.append(box_iou(best, box[None]).sum().item())
    return sum(overlaps) / len(overlaps)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("fcos", 30),
        pytest.param("retinanet", 160, marks=pytest.mark.slow),
        pytest.param("faster_rcnn", 50, marks=pytest.mark.slow),
        pytest.param("mask_rcnn", 50, marks=pytest.mark.slow),
    ],
)
def test_four_images_are_learnt_by_heart(name, steps):
    few: dict[str, Any] = (
        {} if name in ("retinanet", "fcos") else {"box_batch_size_per_image": 32, "rpn_post_nms_top_n_train": 200}
    )
    threshold: dict[str, Any] = {"score_thresh": 0.05} if name in ("retinanet", "fcos") else {"box_score_thresh": 0.05}
    model, (images, targets) = detector(name, **few, **threshold), pictures(4)
    assert average_overlap(model, images, targets) < 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([*model(images, targets).values()]).sum().backward()
        optimizer.step()
    assert average_overlap(model, images, targets) > 0.6
    pst.set_topk(model, 8)
    assert math.isfinite(average_overlap(model, images, targets))


@pytest.mark.parametrize("seed", range(3))
def test_the_distances_of_a_new_fcos_pass_its_relu(seed):
    """From torchvision's start, around 0, a few steps can leave no gradient: 3 of 20 trainings never placed a box."""
    torch.manual_seed(seed)
    model, (images, _) = fcos("resnet18", 3, neck="pst", min_size=128, max_size=128), pictures(2)
    with torch.no_grad():
        features = [*model.backbone(torch.stack(images)).values()]
        distances, _ = model.get_submodule("head.regression_head")(features)
    assert (distances > 0).float().mean() > 0.95  # torchvision's start: 0.5
    assert distances.mean().item() == pytest.approx(1, abs=0.2)


def test_a_head_of_ones_own_keeps_its_start():
    backbone = pst_backbone("resnet18", returned_layers=(2, 3, 4), extra_levels="p6p7")
    head = FCOSHead(backbone.out_channels, 1, 3)
    assert fcos(backbone, 3, head=head).head is head
    assert not head.get_parameter("regression_head.bbox_reg.bias").any()


# -------------------------------------------------------------------------------------------------------------- export


@every_detector
def test_raw_heads_are_what_the_detector_sees(name):
    model, (images, _) = detector(name, topk=8).eval(), pictures(1)
    head = model.head if name in ("retinanet", "fcos") else model.rpn.head
    seen = []
    handle = head.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model(images)
        raw = RawHeads(model)
        outputs = raw(images[0][None])
    handle.remove()
    assert len(outputs) == len(raw.output_names)
    if raw.one_stage:
        assert all(torch.equal(y, seen[0][n]) for n, y in zip(raw.output_names, outputs, strict=True))
    else:
        count = sum(y[0].numel() for y in seen[0][0])
        assert [tuple(y.shape) for y in outputs] == [(1, count), (1, count, 4)]
        assert torch.equal(outputs[0][0, 0], seen[0][0][0][0, 0, 0, 0])  # the first position's first anchor
        assert torch.equal(outputs[1][0, 0], seen[0][1][0][0, :4, 0, 0])


@pytest.mark.parametrize("name", ["fcos", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_raw_heads_export(name):
    raw = RawHeads(detector(name, topk=8)).eval()
    program = torch.export.export(raw, (torch.rand(2, 3, 64, 64),), strict=False).module()
    x = torch.rand(2, 3, 64, 64)
    for actual, expected in zip(program(x), raw(x), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    "name",
    ["fcos", *(pytest.param(n, marks=pytest.mark.slow) for n in ("retinanet", "faster_rcnn", "mask_rcnn"))],
)
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # torchvision's own code, traced
@pytest.mark.filterwarnings("ignore:Exporting aten..index operator:UserWarning", "ignore:Constant folding:UserWarning")
def test_detections_export_to_onnx_with_nms(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    threshold: dict[str, Any] = {"score_thresh": 0.0} if name in ("retinanet", "fcos") else {"box_score_thresh": 0.0}
    model = Detections(filled(detector(name, topk=8, **threshold))).eval()  # as built, all scores are nearly equal
    image = pictures(1)[0][0][None]
    names = ["boxes", "scores", "labels", "masks"][: 4 if name == "mask_rcnn" else 3]
    path = to_onnx(model, (image,), tmp_path / "detector.onnx", output_names=names)
    image = pictures(2)[0][1][None]
    with torch.no_grad():
        expected = model(image)
    assert len(expected[0]) > 10
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for actual, wanted in zip(session.run(None, {"input0": image.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), wanted, rtol=1e-3, atol=1e-3)


def test_raw_heads_of_something_else():
    with pytest.raises(TypeError, match=r"expected a torchvision RetinaNet.*got Linear"):
        RawHeads(nn.Linear(1, 1))


def test_a_saved_detector_keeps_what_pretrained_decided(tmp_path, monkeypatch):
    import timm

    create = timm.create_model
    asked = []

    def offline(name, pretrained=False, **options):
        asked.append(pretrained)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    small = {"backbone_options": {"out_channels": 64}, "min_size": 64, "max_size": 64}
    model = PSTDetector("fcos", "resnet18", 3, pretrained=True, **small).eval()
    assert asked[-1] is True
    pst.set_topk(model, 8)
    model.save_pretrained(tmp_path)
    other = PSTDetector.from_pretrained(tmp_path).eval()
    assert asked[-1] is False
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == [n for n, p in other.named_parameters() if p.requires_grad]
    assert len(trained) < len([*model.parameters()])
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = [m.get_submodule("model.backbone")(x)["0"] for m in (model, other)]
    assert torch.equal(*maps)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # torchvision's own code, traced
def test_every_snippet_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 5
    for code in snippets:
        exec(compile(code, DOCUMENT.name, "exec"), {})
    assert (tmp_path / "fcos.onnx").is_file()
