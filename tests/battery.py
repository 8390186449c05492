"""What every module must do. A test class inherits a battery, says how to build the module, and gets all of its tests.

class TestPST(AttentionBattery):
    def build(self, **settings):
        return pst.PST(8, 12, 32, head_dim=16, **settings)

    def inputs(self, sizes, batch=2):
        return torch.randn(batch, 8, *sizes[0]), torch.randn(batch, 12, *sizes[1])
"""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

import pst
from pst.control import attention_layers
from pst.functional.attention import Fusion
from tensors import RoundTo, Watch, assert_close

Size = tuple[int, int]
Sizes = Sequence[Size]
Settings = Mapping[str, Any]

ALL = 10**6  # more tokens than any map here has
_COMPILE = ("test_compiles_to_one_graph_with_equal_results", "test_export_runs_at_other_sizes_than_traced")
DIGEST = Path(__file__).with_name("digest.py")


def filled(module: nn.Module) -> Any:
    """``module`` with weights of unit gain and BatchNorm statistics unlike the initial ones, from fixed seeds.

    As built, attention is nearly uniform and BatchNorm the identity: tests would see neither.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                gain = m.weight[0].numel() ** -0.5
                m.weight.copy_(torch.randn(m.weight.shape, generator=generator) * gain)
                if m.bias is not None:
                    m.bias.copy_(torch.randn(m.bias.shape, generator=generator))
            elif isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None
                assert m.running_var is not None
                for t, low, high in ((m.weight, 0.5, 1.5), (m.bias, -0.2, 0.2)):
                    t.copy_(torch.rand(t.shape, generator=generator) * (high - low) + low)
                m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=generator) * 0.1)
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
    return module


def leaves(maps: Any) -> list[Tensor]:
    """The tensors of a nest of tensors, in order."""
    return [t for t in tree_leaves(maps) if isinstance(t, Tensor)]


def convert(maps: Any, function) -> Any:
    """The same nest with ``function`` applied to every tensor."""
    return tree_map(lambda t: function(t) if isinstance(t, Tensor) else t, maps)


def total(outputs: Any) -> Tensor:
    """A scalar that every element of the outputs has its own share in, to call backward on."""
    flat = torch.cat([y.double().flatten() for y in leaves(outputs)])
    return flat @ torch.linspace(-1, 1, flat.numel(), dtype=flat.dtype)


def digest(outputs: Any) -> str:
    """Fingerprint of every bit of the outputs."""
    data = b"".join(t.detach().contiguous().numpy().tobytes() for t in leaves(outputs))
    return hashlib.sha256(data).hexdigest()


class ModuleBattery:
    """Tests of any module that maps feature maps to feature maps of the same sizes.

    Attributes:
        variants: Settings of `build` that every test runs with, by name.
        sizes: Sizes of the input maps of the usual test, finest first.
        odd_sizes: More of them: odd, not square, ratios other than 2.
        compiled: Variants that are compiled and exported in the quick suite, others in the slow one; None is all.
    """

    variants: ClassVar[Mapping[str, Settings]] = {"default": {}}
    sizes: ClassVar[Sizes] = ((8, 12),)
    odd_sizes: ClassVar[Sequence[Sizes]] = (((7, 5),), ((1, 9),), ((1, 1),))
    compiled: ClassVar[Sequence[str] | None] = None

    def build(self, **settings: Any) -> Any:
        """The module under test."""
        raise NotImplementedError

    def inputs(self, sizes: Sizes, batch: int = 2) -> tuple[Any, ...]:
        """Its positional arguments: random float32 maps of these sizes."""
        raise NotImplementedError

    def output_shapes(self, sizes: Sizes, batch: int = 2) -> list[tuple[int, ...]]:
        """Shapes of its outputs."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test for each variant, and for each of the odd sizes, if it takes such an argument."""
        if "variant" in metafunc.fixturenames:
            slow = [pytest.mark.slow] if metafunc.function.__name__ in _COMPILE else []
            quick = self.variants if self.compiled is None else self.compiled
            variants = [pytest.param(dict(v), id=n, marks=[] if n in quick else slow) for n, v in self.variants.items()]
            metafunc.parametrize("variant", variants)
        if "odd" in metafunc.fixturenames:
            names = ["-".join(f"{h}x{w}" for h, w in sizes) for sizes in self.odd_sizes]
            metafunc.parametrize("odd", self.odd_sizes, ids=names)

    def module(self, variant: Settings, dtype: torch.dtype = torch.float32) -> Any:
        """The module with telling weights, in eval mode."""
        return filled(self.build(**variant)).eval().to(dtype)

    def maps(self, sizes: Sizes | None = None, batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        """`inputs` in another dtype."""
        return convert(self.inputs(self.sizes if sizes is None else sizes, batch), lambda t: t.to(dtype))

    # ------------------------------------------------------------------------------------------ forward and backward

    def test_every_parameter_and_input_gets_a_gradient_in_training(self, variant):
        module, maps = self.build(**variant).train(), convert(self.maps(), lambda t: t.requires_grad_())
        total(module(*maps)).backward()
        for name, p in [*module.named_parameters(), *((f"input {i}", t) for i, t in enumerate(leaves(maps)))]:
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name

    def test_odd_sizes(self, variant, odd):
        module, maps = self.module(variant), self.maps(odd)
        outputs = leaves(module(*maps))
        assert [tuple(y.shape) for y in outputs] == self.output_shapes(odd)
        assert all(y.isfinite().all() for y in outputs)

    def test_each_image_is_processed_on_its_own(self, variant):
        module, maps = self.module(variant, torch.float64), self.maps(batch=3, dtype=torch.float64)
        together = leaves(module(*maps))
        for i in range(3):
            alone = leaves(module(*convert(maps, lambda t, i=i: t[i : i + 1])))
            for one, many in zip(alone, together, strict=True):
                assert_close(one, many[i : i + 1], 1e-10)

    # ------------------------------------------------------------------------------------------------ memory formats

    def test_keeps_channels_last(self, variant):
        module, maps = self.module(variant), self.maps()
        last = convert(maps, lambda t: t.to(memory_format=torch.channels_last))
        for y in leaves(module(*last)):
            assert y.is_contiguous(memory_format=torch.channels_last)
        for y in leaves(module(*maps)):
            assert y.is_contiguous()

    def test_memory_format_changes_no_value(self, variant):
        module, maps = self.module(variant, torch.float64), self.maps(dtype=torch.float64)
        expected = leaves(module(*maps))
        layouts = {
            "channels_last": lambda t: t.to(memory_format=torch.channels_last),
            "strided": lambda t: torch.stack([t, -t], -1)[..., 0],
            "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        }
        for layout in layouts.values():
            for actual, y in zip(leaves(module(*convert(maps, layout))), expected, strict=True):
                assert_close(actual, y, 1e-10)

    # ----------------------------------------------------------------------------------------------------- precision

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("autocast", [False, True], ids=["cast", "autocast"])
    def test_low_precision_is_within_the_error_budget(self, variant, dtype, autocast):
        settings = {k: ALL if k == "topk" and v > 0 else v for k, v in variant.items()}  # rounding may swap near ties
        module, maps = self.module(settings), self.maps()
        cast = copy.deepcopy(module).to(dtype), convert(maps, lambda t: t.to(dtype))
        start = (module, maps) if autocast else cast  # weights and inputs that are exact in the computation under test
        exact = leaves(copy.deepcopy(start[0]).double()(*convert(start[1], lambda t: t.double())))
        with RoundTo(dtype):
            rounded = leaves(copy.deepcopy(cast[0]).double()(*convert(cast[1], lambda t: t.double())))
        with torch.autocast("cpu", dtype, enabled=autocast):
            actual = leaves(start[0](*start[1]))
        # The budget: what rounding each intermediate to the dtype costs in float64; a fused operator rounds less often,
        # and a half on top for the chance in a sum of few roundings.
        for y, e, r in zip(actual, exact, rounded, strict=True):
            assert (y.double() - e).norm() <= 1.5 * (r - e).norm()

    @pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
    @pytest.mark.parametrize("mode", ["bfloat16", "autocast-bfloat16", "autocast-float16"])
    def test_large_inputs_stay_finite(self, variant, mode, training):
        module, maps = self.module(variant), convert(self.maps(), lambda t: t.clamp(-1, 1) * 1e4)
        for m in module.modules():  # statistics of such inputs, as training leaves them
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = None
        module.train()(*maps)
        module.train(training)
        dtype = getattr(torch, mode.removeprefix("autocast-"))
        if mode == "bfloat16":
            module, maps = module.to(dtype), convert(maps, lambda t: t.to(dtype))
        with torch.autocast("cpu", dtype, enabled=mode != "bfloat16"):
            outputs = leaves(module(*maps))
        assert all(y.isfinite().all() for y in outputs)
        (total(outputs) / sum(y.numel() for y in outputs)).backward()  # float16 is trained with a scaled loss
        for name, p in module.named_parameters():
            assert p.grad is None or p.grad.isfinite().all(), name

    # ------------------------------------------------------------------------------------- copies, files, transforms

    def test_state_dict_round_trip(self, variant):
        module, maps = self.module(variant), self.maps()
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        other = self.build(**variant).eval()
        assert digest(other(*maps)) != digest(module(*maps))
        other.load_state_dict(torch.load(file, weights_only=True))
        assert digest(other(*maps)) == digest(module(*maps))

    def test_deepcopy_and_pickle_give_an_equal_module_of_its_own(self, variant):
        module, maps = self.module(variant), self.maps()
        expected = digest(module(*maps))
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert digest(other(*maps)) == expected
            for p in other.parameters():
                p.data.zero_()
            assert digest(module(*maps)) == expected

    @pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
    def test_compiles_to_one_graph_with_equal_results(self, variant, training):
        torch.compiler.reset()
        module, maps = self.module(variant, torch.float64).train(training), self.maps(dtype=torch.float64)
        backend = "aot_eager" if training else "eager"  # in training a compiled backward too, which takes twice as long
        compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend=backend)
        outputs = leaves(compiled(*maps))
        for actual, expected in zip(outputs, leaves(module(*maps)), strict=True):
            assert_close(actual, expected, 1e-10)
        total(outputs).backward()

    def test_export_runs_at_other_sizes_than_traced(self, variant):
        module = self.module(variant, torch.float64)
        traced = self.maps(self.odd_sizes[0], batch=3, dtype=torch.float64)
        free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
        dynamic = convert(traced, lambda _: free)
        program = torch.export.export(module, traced, dynamic_shapes=dynamic, strict=False).module()
        for sizes, n in ((self.sizes, 2), *((odd, 1) for odd in self.odd_sizes if self.exportable(odd))):
            maps = self.maps(sizes, batch=n, dtype=torch.float64)
            for actual, expected in zip(leaves(program(*maps)), leaves(module(*maps)), strict=True):
                assert_close(actual, expected, 1e-10)

    def exportable(self, sizes: Sizes) -> bool:
        """Whether the program that is exported with `odd_sizes`' first entry covers maps of these sizes."""
        return all(min(size) > 1 for size in sizes)

    def test_gradient_checkpointing_changes_no_gradient(self, variant):
        module, maps = self.module(variant).train(), convert(self.maps(), lambda t: t.requires_grad_())

        def gradients(run) -> list[Tensor]:
            return list(torch.autograd.grad(total(run(*maps)), [*module.parameters(), *leaves(maps)]))

        plain = gradients(module)
        saved = gradients(lambda *args: checkpoint(module, *args, use_reentrant=False))
        assert all(torch.equal(a, b) for a, b in zip(plain, saved, strict=True))

    # --------------------------------------------------------------------------------------------------- determinism

    def test_runs_are_bitwise_equal(self, variant):
        module, maps = self.module(variant), self.maps()
        assert digest(module(*maps)) == digest(module(*maps))

    def test_a_new_process_gives_the_same_bits(self, tmp_path):
        runs = [(self.module(v), self.maps()) for v in self.variants.values()]
        torch.save(runs, tmp_path / "runs.pt")
        command = [sys.executable, str(DIGEST), str(tmp_path / "runs.pt")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [digest(module(*maps)) for module, maps in runs]

    def test_eval_draws_no_random_numbers(self, variant):
        module, maps = self.module(variant), self.maps()
        before = torch.get_rng_state()
        module(*maps)
        assert torch.equal(torch.get_rng_state(), before)


class AttentionBattery(ModuleBattery):
    """Tests of any module with PST layers inside: `build` takes topk, fusion and selection."""

    variants: ClassVar[Mapping[str, Settings]] = {
        "coarse": {"topk": 0},
        "gate": {"topk": 8},
        "refine": {"topk": 8, "fusion": "refine"},
    }
    sizes: ClassVar[Sizes] = ((12, 10), (6, 5))
    odd_sizes: ClassVar[Sequence[Sizes]] = (
        ((13, 9), (7, 5)),  # just under 2
        ((9, 12), (3, 4)),  # 3
        ((9, 12), (6, 8)),  # 1.5
        ((4, 7), (4, 7)),  # 1
        ((11, 8), (3, 8)),  # one ratio for each axis
        ((5, 3), (1, 1)),
        ((1, 1), (1, 1)),
    )

    def exportable(self, sizes: Sizes) -> bool:
        """Ratios above 1 along both axes, and coarse maps of more tokens than the 8 of `variants`."""
        pairs = list(itertools.pairwise(sizes))
        larger = all(fine[axis] > coarse[axis] for fine, coarse in pairs for axis in (0, 1))
        return larger and all(height * width > 8 for _, (height, width) in pairs)

    def test_equals_the_reference(self, variant, odd):
        module, maps = self.module(variant, torch.float64), self.maps(odd, dtype=torch.float64)
        fused = leaves(module(*maps))
        for layer in attention_layers(module).values():
            layer.impl = "reference"
        for actual, expected in zip(fused, leaves(module(*maps)), strict=True):
            assert_close(actual, expected, 1e-10)

    def test_state_dicts_are_identical_for_every_k(self):
        first, *others = (self.build(topk=k).state_dict() for k in (0, 1, 8, ALL))
        for other in others:
            assert list(other) == list(first)
            assert all(other[name].shape == t.shape for name, t in first.items())

    def test_topk_may_be_set_before_or_after_loading(self):
        state, maps = self.module({"topk": 0}).state_dict(), self.maps()
        digests = []
        for before, after in ((None, 8), (8, None)):
            module = self.build().eval()
            for k in (before, "load", after):
                if k == "load":
                    module.load_state_dict(state)
                elif k is not None:
                    pst.set_topk(module, k)
            digests.append(digest(module(*maps)))
        built = self.build(topk=8).eval()
        built.load_state_dict(state)
        assert digests == [digest(built(*maps))] * 2

    def test_every_k_and_fusion_changes_the_result(self):
        module, maps = self.module({}), self.maps()
        seen = set()
        fusions: tuple[Fusion, ...] = ("gate", "refine")
        for fusion in fusions:
            pst.set_fusion(module, fusion)
            for k in (1, 8, ALL):
                with pst.use_topk(module, k):
                    seen.add(digest(module(*maps)))
        seen.add(digest(module(*maps)))  # k = 0
        assert len(seen) == 7

    def test_gates_get_gradients_whether_used_or_not(self):
        module, maps = self.build().train(), self.maps()
        cases: tuple[tuple[int, Fusion], ...] = ((0, "gate"), (8, "gate"), (8, "refine"), (0, "refine"))
        for k, fusion in cases:
            pst.set_topk(module, k)
            pst.set_fusion(module, fusion)
            module.zero_grad()
            total(module(*maps)).backward()
            for layer in attention_layers(module).values():
                assert layer.gate is not None
                assert layer.gate.weight.grad is not None
                assert layer.gate.bias.grad is not None
                assert bool(layer.gate.weight.grad.any()) == (k > 0 and fusion == "gate")

    def test_no_tensor_has_an_element_for_each_pair_of_tokens(self, variant):
        large = [(4 * height, 4 * width) for height, width in self.sizes]
        module, maps = self.module(variant).train(), self.maps(large, batch=1)
        with Watch() as watch:
            total(module(*maps)).backward()
        assert watch.largest < math.prod(large[0]) * math.prod(large[1]) / 4

    def test_k_0_leaves_the_fine_branch_out(self):
        module, maps = self.module({"topk": 0}), self.maps()
        calls = []
        for layer in attention_layers(module).values():
            layer.kv.register_forward_hook(lambda layer, *_: calls.append(layer))
        with pst.record_selection(module) as selected:
            module(*maps)
        assert not any(selected.values())
        assert len(calls) == len(set(calls)) == len(attention_layers(module))

    def test_gumbel_is_off_in_eval(self):
        module, maps = self.module({"topk": 3, "selection": "gumbel"}), self.maps()
        plain = self.module({"topk": 3})
        before = torch.get_rng_state()
        assert digest(module(*maps)) == digest(plain(*maps))
        assert torch.equal(torch.get_rng_state(), before)

    def test_gumbel_in_training_draws_from_the_generator(self):
        module, maps = self.build(topk=3, selection="gumbel").train(), self.maps()
        picked = []
        before = torch.get_rng_state()
        for seed in (7, 7, 8):
            for layer in attention_layers(module).values():
                layer.generator = torch.Generator().manual_seed(seed)
            with pst.record_selection(module) as selected:
                module(*maps)
            picked.append(torch.cat([s.index.flatten() for records in selected.values() for s in records]))
        assert torch.equal(picked[0], picked[1])
        assert not torch.equal(picked[0], picked[2])
        assert torch.equal(torch.get_rng_state(), before)

    def test_mixed_dtypes_are_fine_under_autocast(self, variant):
        module, maps = self.module(variant), self.maps()
        mixed = convert(maps, lambda t: t if t.shape[2:] == self.sizes[0] else t.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            outputs = leaves(module(*mixed))
            expected = leaves(module(*convert(maps, lambda t: t.bfloat16())))
        for actual, y in zip(outputs, expected, strict=True):
            assert (actual.double() - y.double()).norm() <= 0.1 * y.double().norm()
