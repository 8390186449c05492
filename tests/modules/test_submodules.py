"""Whatever is done to a submodule takes effect: it is called, and never looked into, in every form of the layer."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import pst
from battery import filled
from pst.export import load, to_onnx
from pst.export.onnx_file import quiet_exporter
from pst.functional import pyramid_sparse_attention
from tensors import assert_close

SETTINGS: dict[str, dict[str, Any]] = {
    "coarse": {"topk": 0},
    "gate": {"topk": 3},
    "refine": {"topk": 3, "fusion": "refine"},
}
ATTENTION = ("q", "kv", "pe", "proj")
NAMES = (
    "reduce",
    "reduce_upper",
    "project",
    "blocks.0.mlp",
    "blocks.0.mlp.0",
    *(f"blocks.0.attn.{name}" for name in ATTENTION),
    *(f"blocks.0.attn.{name}.{part}" for name in ("kv", "proj") for part in ("conv", "bn", "act")),
)
GATE = "blocks.0.attn.gate"


def names(setting: str) -> tuple[str, ...]:
    """The submodules that take part."""
    return (*NAMES, GATE) if setting == "gate" else NAMES


def layer(setting: str) -> Any:
    return filled(pst.PST(8, 12, 32, head_dim=8, **SETTINGS[setting])).eval().double()


def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(  # type: ignore[return-value]
        torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 8, 9, 8), (2, 12, 4, 4))
    )


def oracle(model: Any, x: Tensor, upper: Tensor) -> Tensor:
    """The layer by its formulas, with every submodule called."""
    x, upper = model.reduce(x), model.reduce_upper(upper)
    block = model.blocks[0]
    z = x + (
        attention(block.attn, x, upper) if type(block.attn) is pst.PyramidSparseAttention else block.attn(x, upper)
    )
    return model.project(torch.cat([x, z + block.mlp(z)], 1))


def attention(attn: Any, x: Tensor, upper: Tensor) -> Tensor:
    """Likewise of the attention alone."""

    def heads(t: Tensor, parts: int) -> Any:
        return [part.permute(0, 1, 3, 4, 2) for part in t.unflatten(1, (attn.num_heads, -1)).chunk(parts, 2)]

    key, value = heads(attn.kv(upper), 2)
    (query,) = heads(attn.q(x), 1)
    out = pyramid_sparse_attention(
        query, key, value, tuple(heads(attn.kv(x), 2)), topk=attn.topk, fusion=attn.fusion, gate=attn.gate,
        impl="reference",
    )  # fmt: skip
    out, values = (t.permute(0, 1, 4, 2, 3).flatten(1, 2) for t in (out, value))
    position = nn.functional.interpolate(attn.pe(values), x.shape[2:], mode="bilinear", align_corners=False)
    return attn.proj(out + position)


# ------------------------------------------------------------------------------------------------------ kinds of change


def weighted(module: nn.Module) -> nn.Module:
    """The first part with weights that a parametrisation can take hold of; the module itself where there is none."""
    found = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return found[0] if found else module


class Scaled(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.factor = base, nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, *args: Tensor) -> Tensor:
        return self.base(*args) * self.factor


class LowPrecision(nn.Module):
    """Computes in bfloat16, and gives what it was given."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.bfloat16()

    def forward(self, *args: Tensor) -> Tensor:
        return self.base(*(t.bfloat16() for t in args)).double()


class Halved(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        return 0.5 * t


def hooked(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_hook(lambda *args: 1.5 * args[-1])


def pre_hooked(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: tuple(1.5 * t for t in args))


def subclassed(model: nn.Module, name: str) -> None:
    module = model.get_submodule(name)
    kind: Any = type(module)

    class Own(kind):
        def forward(self, *args: Tensor) -> Tensor:
            return 1.5 * super().forward(*args)

    module.__class__ = Own


def patched(model: nn.Module, name: str) -> None:
    module: Any = model.get_submodule(name)
    module.forward = functools.partial(lambda forward, *args: 1.5 * forward(*args), module.forward)


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, new)


def wrapped(model: nn.Module, name: str) -> None:
    replace(model, name, Scaled(model.get_submodule(name)))


def in_low_precision(model: nn.Module, name: str) -> None:
    replace(model, name, LowPrecision(model.get_submodule(name)))


def not_pointwise(model: nn.Module, name: str) -> None:
    """A map's neighbours, or a gate's other positions, count: gathering before the call would show."""
    module = model.get_submodule(name)
    if name == GATE:
        replace(model, name, nn.Sequential(module, nn.Tanh()))
    else:
        replace(model, name, nn.Sequential(module, nn.AvgPool2d(3, 1, 1)))


def parametrised(model: nn.Module, name: str) -> None:
    part = weighted(model.get_submodule(name))
    tensor = "weight" if "weight" in dict(part.named_parameters()) else None
    if tensor is None:
        wrapped(model, name)
    else:
        parametrize.register_parametrization(part, tensor, Halved())


def normed(model: nn.Module, name: str) -> None:
    part = weighted(model.get_submodule(name))
    if isinstance(part, (nn.Conv2d, nn.Linear)):
        parametrizations.spectral_norm(part).eval()
    else:
        wrapped(model, name)


def pruned(model: nn.Module, name: str) -> None:
    part = weighted(model.get_submodule(name))
    if isinstance(part, (nn.Conv2d, nn.Linear)):
        prune.l1_unstructured(part, "weight", 0.5)
    else:
        wrapped(model, name)


CHANGES: dict[str, Callable[[nn.Module, str], None]] = {
    f.__name__: f
    for f in (hooked, pre_hooked, subclassed, patched, wrapped, in_low_precision, not_pointwise, parametrised, normed,
              pruned)
}  # fmt: skip
changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def with_every(setting: str, change: Callable[[nn.Module, str], None]) -> Any:
    """The layer with one change at several places at once."""
    model = layer(setting)
    for name in ("reduce", "project", "blocks.0.mlp.0", *(f"blocks.0.attn.{n}" for n in ATTENTION)):
        change(model, name)
    if setting == "gate":
        change(model, GATE)
    return model


def traced(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with quiet_exporter():
        return torch.jit.trace(model, inputs, check_trace=False)


# --------------------------------------------------------------------------------------------------------------- tests


@changes
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_change_of_any_submodule_takes_effect(change, setting):
    inputs = maps()
    before = layer(setting)(*inputs)
    for name in names(setting):
        model = layer(setting)
        change(model, name)
        actual = model(*inputs)
        tolerance = 0.05 if change is in_low_precision else 1e-10  # scores of 8 bits may swap near ties
        assert_close(actual, oracle(model, *inputs), tolerance)
        assert not torch.allclose(actual, before, rtol=0, atol=1e-7), name


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(f, id=n, marks=[] if f in (hooked, wrapped, parametrised, normed) else [pytest.mark.slow])
        for n, f in CHANGES.items()
    ],
)
def test_compiled_exported_and_traced_layers_see_it_too(change):
    torch.compiler.reset()
    inputs, model = maps(), with_every("gate", change)
    expected = model(*inputs)
    assert_close(torch.compile(model, fullgraph=True, backend="eager")(*inputs), expected, 1e-10)
    assert_close(traced(model, inputs)(*inputs), expected, 1e-5)  # 1/√d in float32
    model = with_every("refine", change)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes", UserWarning)  # pruning sets the weight in each call
        program = torch.export.export(model, inputs, strict=False)
    assert_close(program.module()(*inputs), model(*inputs), 1e-10)


@pytest.mark.parametrize(("setting", "change"), [("gate", wrapped), ("refine", not_pointwise)])
def test_an_onnx_file_sees_it_too(setting, change, tmp_path):
    pytest.importorskip("onnx")
    model, inputs = with_every(setting, change).float(), tuple(t.float() for t in maps())
    path = to_onnx(model, inputs, tmp_path / "layer.onnx")
    assert_close(torch.as_tensor(load(path)(*inputs)), model(*inputs).detach(), 1e-4)


@pytest.mark.parametrize("setting", ["gate", "refine"])
def test_a_change_after_calibration_takes_effect(setting):
    """Fine statistics go into the projection's own norm, so that what surrounds it counts for both maps."""
    inputs = maps()
    for change in (hooked, subclassed, patched, wrapped, parametrised):
        model = layer(setting)
        pst.calibrate(model, [inputs])
        change(model, "blocks.0.attn.kv")
        kv, statistics = model.blocks[0].attn.kv, model.blocks[0].attn.fine_statistics
        x = model.reduce(inputs[0])
        norm = next(m for m in kv.modules() if isinstance(m, nn.BatchNorm2d))
        norm.running_mean, own = statistics.mean, norm.running_mean
        norm.running_var, own_var = statistics.var, norm.running_var
        expected = kv(x)
        norm.running_mean, norm.running_var = own, own_var
        assert_close(statistics.project(kv, x), expected)
        assert_close(traced(model, inputs)(*inputs), model(*inputs), 1e-5)


def test_a_quantised_gate_is_called():
    inputs = tuple(t.float() for t in maps())
    model = layer("gate").float()
    expected = model(*inputs).detach()
    with warnings.catch_warnings():  # PyTorch's own quantisation moves to torchao
        warnings.simplefilter("ignore")
        quantised: Any = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        actual = quantised(*inputs)
    assert not isinstance(quantised.blocks[0].attn.gate, nn.Linear)
    assert 0 < (actual - expected).abs().max() < 0.05


@pytest.mark.parametrize("setting", SETTINGS)
def test_frozen_parts_get_no_gradient_and_the_others_do(setting):
    inputs = maps()
    for name in names(setting):
        model = layer(setting).train()
        frozen = set(model.get_submodule(name).requires_grad_(False).parameters())
        model(*inputs).square().sum().backward()
        assert all((p.grad is None) == (p in frozen) for p in model.parameters())


def test_an_offloaded_layer_equals_the_layer(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    inputs = maps()
    for setting in SETTINGS:
        expected = layer(setting)(*inputs).detach()
        for offload in (
            accelerate.cpu_offload,
            functools.partial(accelerate.disk_offload, offload_dir=tmp_path / setting),
        ):
            model = layer(setting)
            offload(model, execution_device=torch.device("cpu"))
            assert any(p.is_meta for p in model.parameters())
            assert_close(model(*inputs), expected)


def test_an_idle_gate_of_any_kind_has_a_gradient_of_zero():
    for change in (hooked, subclassed, patched, wrapped, not_pointwise, parametrised, normed):
        model = layer("coarse").train()
        change(model, GATE)
        model(*maps()).sum().backward()
        parameters = list(model.get_submodule(GATE).parameters())
        assert parameters
        assert all(p.grad is not None and not p.grad.any() for p in parameters)


def test_a_gate_of_another_width_is_refused():
    model = layer("gate")
    replace(model, GATE, nn.Linear(16, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"gate must give 8 channels for 16, got shape \(2, 72, 2, 1\)"):
        model(*maps())
