"""Separate BatchNorm statistics of the fine map: from unlabelled batches, and tracked in training."""

from __future__ import annotations

import copy
import pickle
import re
import sys
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import pst
from battery import digest, filled
from pst.control import attention_layers
from pst.modules.fine_statistics import FineStatistics
from tensors import assert_close


@pytest.fixture
def model() -> Any:
    return filled(pst.PST(8, 12, 32, head_dim=8, depth=2)).eval().double()


@pytest.fixture
def batches():
    """Pairs of maps, of different sizes and numbers of images."""
    shapes = ((2, (13, 9), (7, 5)), (1, (6, 8), (3, 4)), (3, (5, 5), (2, 3)))
    return [
        (torch.randn(n, 8, *fine, dtype=torch.float64) + 1, torch.randn(n, 12, *coarse, dtype=torch.float64))
        for n, fine, coarse in shapes
    ]


def statistics(model: nn.Module) -> list[FineStatistics]:
    found = [layer.fine_statistics for layer in attention_layers(model).values()]
    assert all(s is not None for s in found)
    return [s for s in found if s is not None]


def convolved(block: Any, x: torch.Tensor) -> torch.Tensor:
    """The fine map of a block as its key and value convolution leaves it, (2C, everything else)."""
    return block.attn.kv.conv(x).transpose(0, 1).flatten(1)


def fused(model: Any) -> Any:
    """A copy with every BatchNorm folded into its convolution."""
    model = copy.deepcopy(model)
    for m in model.modules():
        if isinstance(m, pst.ConvNormAct) and isinstance(m.bn, nn.BatchNorm2d):
            m.conv = fuse_conv_bn_eval(m.conv, m.bn)
            m.bn = nn.Identity()
    return model


# --------------------------------------------------------------------------------------------------------- calibrate


def test_statistics_are_the_exact_moments_over_all_batches(model, batches):
    pst.set_topk(model, 5)
    pst.calibrate(model, batches)
    pst.set_topk(model, 0)
    x = [[model.reduce(x)] for x, _ in batches]
    for maps, (_, upper) in zip(x, batches, strict=True):
        maps.append(model.blocks[0](maps[0], model.reduce_upper(upper)))
    for i, (block, found) in enumerate(zip(model.blocks, statistics(model), strict=True)):
        seen = torch.cat([convolved(block, maps[i]) for maps in x], 1)
        assert_close(found.mean, seen.mean(1), 1e-12)
        assert_close(found.var, seen.var(1), 1e-12)


@pytest.mark.parametrize("fusion", ["gate", "refine"])
def test_fine_keys_and_values_are_normalised_by_them(model, batches, fusion):
    pst.set_fusion(model, fusion)
    pst.set_topk(model, 5)
    pst.calibrate(model, batches)
    (x, upper), layer = batches[0], model.blocks[0].attn
    x, upper = model.reduce(x), model.reduce_upper(upper)
    after = layer(x, upper)

    own, bn = layer.fine_statistics, layer.kv.bn
    bn_of_coarse = copy.deepcopy(bn)

    def heads(projected, parts):
        chunks = projected.unflatten(1, (layer.num_heads, -1)).chunk(parts, 2)
        return [t.permute(0, 1, 3, 4, 2) for t in chunks]

    key, value = heads(layer.kv(upper), 2)
    bn.running_mean, bn.running_var = own.mean.clone(), own.var.clone()
    fine_key, fine_value = heads(layer.kv(x), 2)
    expected = pst.functional.pyramid_sparse_attention(
        heads(layer.q(x), 1)[0],
        key,
        value,
        (fine_key, fine_value),
        topk=5,
        fusion=fusion,
        gate=(layer.gate.weight, layer.gate.bias),
        impl="reference",
    )
    layer.kv.bn = bn_of_coarse
    position = nn.functional.interpolate(
        layer.pe(value.permute(0, 1, 4, 2, 3).flatten(1, 2)), size=(13, 9), mode="bilinear"
    )
    assert_close(layer.proj(expected.permute(0, 1, 4, 2, 3).flatten(1, 2) + position), after, 1e-11)


def test_the_result_without_refinement_stays_bit_for_bit(model, batches):
    before = digest(model(*batches[0]))
    pst.calibrate(model, batches)
    assert digest(model(*batches[0])) == before
    pst.set_topk(model, 5)
    assert digest(model(*batches[0])) != before


def test_statistics_equal_to_those_of_the_coarse_map_change_nothing(model, batches):
    pst.set_topk(model, 5)
    before = model(*batches[0])
    for layer in attention_layers(model).values():
        kv: Any = layer.kv
        layer.fine_statistics = FineStatistics(kv.bn)
    assert_close(model(*batches[0]), before, 1e-12)


def test_uncalibrate_gives_the_model_back(model, batches):
    pst.set_topk(model, 5)
    names, before = list(model.state_dict()), digest(model(*batches[0]))
    pst.calibrate(model, batches)
    added = sorted(set(model.state_dict()) - set(names))
    assert added == [f"blocks.{i}.attn.fine_statistics.{name}" for i in range(2) for name in ("mean", "var")]
    pst.uncalibrate(model)
    assert list(model.state_dict()) == names
    assert digest(model(*batches[0])) == before


def test_a_state_dict_calibrates_the_model_that_loads_it(model, batches):
    pst.set_topk(model, 5)
    pst.calibrate(model, batches)
    other = pst.PST(8, 12, 32, head_dim=8, depth=2, topk=5).eval().double()
    other.load_state_dict(model.state_dict())
    assert digest(other(*batches[0])) == digest(model(*batches[0]))
    with pytest.raises(ValueError, match=r"fine statistics for blocks\.0\.attn\.kv, which has no BatchNorm any more"):
        fused(pst.PST(8, 12, 32, head_dim=8, depth=2).eval()).load_state_dict(model.state_dict())


def test_copies_and_pickles_keep_them_and_folding_the_batchnorm_too(model, batches):
    pst.set_topk(model, 5)
    pst.calibrate(model, batches)
    expected = model(*batches[0])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(*batches[0]), expected)
    folded = fused(model)
    for other in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert_close(other(*batches[0]), expected, 1e-11)
    assert torch.equal(model(*batches[0]), expected)


def test_calibrating_again_replaces_what_was_there(model, batches):
    pst.calibrate(model, batches[1:])
    pst.calibrate(model, batches[:1])
    found = [s.mean for s in statistics(model)]
    pst.uncalibrate(model)
    pst.calibrate(model, batches[:1])
    assert all(torch.equal(a, s.mean) for a, s in zip(found, statistics(model), strict=True))


def test_modes_k_and_the_batchnorms_are_left_as_they_were(model, batches):
    model.train()
    model.blocks[1].eval()
    pst.set_topk(model, [3, 7])
    modes, state = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    pst.calibrate(model, batches)
    added = len([m for m in model.modules() if isinstance(m, FineStatistics)])
    assert added == 2
    assert [m.training for m in model.modules() if not isinstance(m, FineStatistics)] == modes
    assert [layer.topk for layer in attention_layers(model).values()] == [3, 7]
    assert all(torch.equal(model.state_dict()[name], t) for name, t in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_calibrated_model_runs_in_low_precision(model, batches, dtype):
    pst.set_topk(model, 10**6)
    pst.calibrate(model, batches)
    expected = model(*batches[0])
    low = copy.deepcopy(model).to(dtype)(*(t.to(dtype) for t in batches[0]))
    assert_close(low, expected, {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype])


def test_a_calibrated_layer_compiles_and_is_exported_when_fused():
    layer: Any = filled(pst.PyramidSparseAttention(8, 1, topk=2)).eval().double()
    maps = torch.randn(1, 8, 6, 5, dtype=torch.float64), torch.randn(1, 8, 3, 3, dtype=torch.float64)
    pst.calibrate(layer, [maps])
    expected = layer(*maps)
    torch.compiler.reset()
    assert_close(torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")(*maps), expected, 1e-10)
    assert_close(torch.export.export(fused(layer), maps, strict=False).module()(*maps), expected, 1e-10)


class GroupNormConv(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size=1, *, groups=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)
        self.norm = nn.GroupNorm(2, out_channels)

    def forward(self, x):
        return self.norm(self.conv(x))


NO_NORM = "has a key/value projection without a BatchNorm with running statistics: calibrate and track before fusing"


@pytest.mark.parametrize(
    "call", [lambda m: pst.calibrate(m, []), pst.track_fine_statistics], ids=["calibrate", "track"]
)
def test_what_has_no_batchnorm_is_refused(model, call):
    for wrong in (fused(model), pst.PST(8, 12, 32, head_dim=8, conv=GroupNormConv)):
        with pytest.raises(ValueError, match=f"^{re.escape(f'blocks.0.attn {NO_NORM}')}"):
            call(wrong)
    with pytest.raises(ValueError, match="holds no PST layer"):
        call(nn.ReLU())


def test_no_batch_or_too_small_a_map_is_refused_and_changes_nothing(model):
    tiny = (torch.randn(1, 8, 1, 1).double(), torch.randn(1, 12, 1, 1).double())
    for batches in ([], [tiny]):
        with pytest.raises(ValueError, match=r"^the batches gave no two positions of a fine map to these layers:"):
            pst.calibrate(model, batches)
        assert all(layer.fine_statistics is None for layer in attention_layers(model).values())


def test_an_error_in_the_middle_leaves_the_model_as_it_was(model, batches):
    model.train()
    with pytest.raises(ValueError, match="x must be"):
        pst.calibrate(model, [batches[0], (batches[0][1], batches[0][0])])
    assert all(m.training for m in model.modules())
    assert all(layer.fine_statistics is None for layer in attention_layers(model).values())
    assert not any(m._forward_pre_hooks for m in model.modules())


# ------------------------------------------------------------------------------------------------------------- track


@pytest.mark.parametrize("momentum", [0.1, None])
def test_training_updates_them_as_a_batchnorm_of_their_own_would(model, batches, momentum):
    for block in model.blocks:
        block.attn.kv.bn.momentum = momentum
        block.attn.kv.bn.reset_running_stats()
    pst.track_fine_statistics(model)
    layer = model.blocks[0].attn
    own = copy.deepcopy(layer.kv.bn)
    model.train()
    for x, upper in batches:
        model(x, upper)
    own.train()
    for x, _ in batches:
        reduced = nn.functional.silu(
            nn.functional.batch_norm(
                model.reduce.conv(x), None, None, model.reduce.bn.weight, model.reduce.bn.bias, True
            )
        )
        own(layer.kv.conv(reduced))
    assert_close(layer.fine_statistics.mean, own.running_mean, 1e-10)
    assert_close(layer.fine_statistics.var, own.running_var, 1e-10)


def test_tracking_changes_neither_result_nor_gradient_nor_other_statistics(model, batches):
    other = copy.deepcopy(model)
    pst.track_fine_statistics(other)
    runs = []
    for m in (model, other):
        out = m.train()(*batches[0])
        runs.append([out, *torch.autograd.grad(out.square().sum(), list(m.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert all(torch.equal(other.state_dict()[name], t) for name, t in model.state_dict().items())
    assert not torch.equal(statistics(other)[0].mean, other.blocks[0].attn.kv.bn.running_mean)


def test_with_refinement_the_coarse_statistics_see_the_coarse_map_alone(model, batches):
    pst.set_topk(model, 5)
    pst.track_fine_statistics(model)
    before = model.blocks[0].attn.kv.bn.num_batches_tracked.item()
    out = model.train()(*batches[0])
    assert model.blocks[0].attn.kv.bn.num_batches_tracked.item() == before + 1
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_eval_mode_and_tracking_off_update_nothing(model, batches):
    pst.track_fine_statistics(model)
    before = copy.deepcopy(model.state_dict())
    model(*batches[0])
    pst.track_fine_statistics(model, False)
    model.train()(*batches[0])
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items() if "fine_statistics" in n)
    assert len([n for n in before if "fine_statistics" in n]) == 4


def test_switching_off_what_never_was_on_adds_nothing(model):
    pst.track_fine_statistics(model, False)
    assert all(layer.fine_statistics is None for layer in attention_layers(model).values())


def test_nan_in_a_batch_is_refused_and_changes_nothing(model, batches):
    before = digest(model)
    with pytest.raises(ValueError, match=r"NaN or infinity reached these layers: \['blocks.0.attn', 'blocks.1.attn'\]"):
        pst.calibrate(model, [*batches, (batches[0][0] * float("nan"), batches[0][1])])
    assert digest(model) == before


@torch.no_grad()
def test_threads_may_share_a_calibrated_model(model, batches):
    pst.calibrate(model, batches)
    pst.set_topk(model, 2)
    expected, before, wrong = model(*batches[0]), digest(model), []

    def run() -> None:
        with torch.no_grad():
            wrong.extend(i for i in range(20) if not torch.equal(model(*batches[0]), expected))

    threads, interval = [threading.Thread(target=run) for _ in range(4)], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # a change of threads within the projection of every pass
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert digest(model) == before


@torch.no_grad()
def test_a_copy_made_within_a_pass_has_the_model_s_own_statistics(model, batches):
    pst.calibrate(model, batches)
    pst.set_topk(model, 2)
    norm, before, copies = model.blocks[0].attn.kv.bn, digest(model), []
    hook = norm.register_forward_hook(lambda *_: copies.append(digest(copy.deepcopy(model))))
    model(*batches[0])
    hook.remove()
    assert copies == [before, before]  # of the coarse and of the fine map


class ByHand(nn.BatchNorm2d):
    """Computes otherwise than by PyTorch's function."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var, weight, bias = (
            t[:, None, None] for t in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        return (input - mean) * (var + self.eps).rsqrt() * weight + bias


@torch.no_grad()
def test_a_norm_that_computes_by_hand_gets_them_too(model, batches):
    pst.calibrate(model, batches)
    pst.set_topk(model, 2)
    expected, before = model(*batches[0]), digest(model)
    for block in model.blocks:
        block.attn.kv.bn.__class__ = ByHand
    assert_close(model(*batches[0]), expected, 1e-10)
    assert digest(model) == before


@torch.no_grad()
def test_a_norm_put_in_later_is_the_one_that_folding_goes_by(model, batches):
    pst.calibrate(model, batches)
    pst.set_topk(model, 2)
    for block in model.blocks:
        norm: Any = nn.BatchNorm2d(block.attn.kv.bn.num_features).double().eval()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        block.attn.kv.bn = norm
    expected = model(*batches[0])
    assert_close(fused(model)(*batches[0]), expected, 1e-10)


def test_what_was_calibrated_in_inference_mode_can_be_trained(model, batches):
    with torch.inference_mode():
        pst.calibrate(model, batches)
        pst.track_fine_statistics(model)
    before = [s.mean.clone() for s in statistics(model)]
    model.train()(*batches[0]).sum().backward()
    assert all(not torch.equal(a, s.mean) for a, s in zip(before, statistics(model), strict=True))


def test_offloaded_statistics_are_brought_back(batches):
    accelerate = pytest.importorskip("accelerate")
    model: Any = filled(pst.PST(8, 12, 32, head_dim=8, topk=2)).eval().double()
    pst.calibrate(model, batches)
    expected = model(*batches[0]).detach()
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    assert model.blocks[0].attn.fine_statistics.mean.is_meta
    assert_close(model(*batches[0]), expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@torch.no_grad()
def test_models_are_run_as_one_batch_of_models(batches):
    models = [filled(pst.PST(8, 12, 32, head_dim=8, topk=2)).eval().double() for _ in range(2)]
    for i, m in enumerate(models):
        pst.calibrate(m, batches[i:])
    expected = torch.stack([m(*batches[0]) for m in models])
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    run = torch.func.vmap(lambda p, b: torch.func.functional_call(base, (p, b), batches[0]))
    assert_close(run(parameters, buffers), expected, 1e-10)


@pytest.mark.parametrize(
    "call",
    [lambda a, x, u, f: a(x, u, f), lambda a, x, u, f: a(x, u, fine=f), lambda a, x, u, f: a(fine=f, upper=u, x=x)],
    ids=["by place", "fine by name", "all by name"],
)
def test_a_fine_map_is_measured_however_it_is_given(call):
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = pst.PyramidSparseAttention(8, 2, topk=2, fusion="refine")

        def forward(self, x: torch.Tensor, upper: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
            return call(self.attention, x, upper, fine)

    torch.manual_seed(0)
    model = Model()
    x, upper, fine = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 3, 3), 10 * torch.randn(2, 8, 6, 6) + 5
    pst.calibrate(model, [(x, upper, fine)])
    kv: Any = model.attention.kv
    wanted = kv.conv(fine).var((0, 2, 3))
    assert model.attention.fine_statistics is not None
    torch.testing.assert_close(model.attention.fine_statistics.var, wanted)
