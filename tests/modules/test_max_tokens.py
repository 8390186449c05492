"""The bound on coarse tokens as a setting of layers, pyramids and finished models."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pst
from battery import filled
from messages import says
from pst.functional import pyramid_sparse_attention
from tensors import assert_close

OPTIONS: list[dict[str, Any]] = [
    {"topk": 0},
    {"topk": 3},
    {"topk": 3, "fusion": "refine"},
    {"topk": 3, "fusion": "refine", "selection": "window"},
    {"topk": 2, "fusion": "refine", "aligned": True},
]
options = pytest.mark.parametrize("option", OPTIONS, ids=str)


def maps(
    fine: tuple[int, int] = (13, 10), coarse: tuple[int, int] = (7, 5), c: tuple[int, int] = (16, 16)
) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, n, *s, dtype=torch.float64) for n, s in zip(c, (fine, coarse), strict=True)]


def heads(t: Tensor) -> Tensor:
    return t.unflatten(1, (2, -1)).permute(0, 1, 3, 4, 2)


@pytest.mark.parametrize("option", OPTIONS[:4], ids=str)
def test_a_layer_is_the_formula(option):
    attn = filled(pst.PyramidSparseAttention(16, 2, max_tokens=6, **option)).eval().double()
    x, upper = maps()
    (key, value), fine = (heads(attn.kv(t)).chunk(2, -1) for t in (upper, x))
    gate = None if attn.gate is None else (attn.gate.weight, attn.gate.bias)
    out = pyramid_sparse_attention(
        heads(attn.q(x)), key, value, (fine[0], fine[1]), gate=gate, impl="reference", max_tokens=6, **option
    )
    position = attn.pe(value.permute(0, 1, 4, 2, 3).flatten(1, 2))  # of the whole map: a bound is on the attention
    position = F.interpolate(position, x.shape[2:], mode="bilinear", align_corners=False)
    assert_close(attn(x, upper), attn.proj(out.permute(0, 1, 4, 2, 3).flatten(1, 2) + position), 1e-11)


def test_it_is_switched_on_a_finished_model_and_is_no_state():
    model = filled(pst.PSTPyramid([8, 8, 8], 16, head_dim=8)).eval().double()
    levels = [torch.randn(1, 8, n, n, dtype=torch.float64) for n in (20, 10, 5)]
    before, state = model(levels), set(model.state_dict())
    with pst.use_max_tokens(model, 4):
        assert not torch.equal(model(levels)[0], before[0])
    assert all(map(torch.equal, model(levels), before))
    pst.set_max_tokens(model, 100)  # as many as the larger of its coarse maps has
    assert all(map(torch.equal, model(levels), before))
    pst.set_options(model, max_tokens=9, topk=2, fusion="refine")
    assert set(model.state_dict()) == state
    again = pickle.loads(pickle.dumps(model))
    assert all(map(torch.equal, again(levels), model(levels)))
    with pytest.raises(ValueError, match=says("max_tokens must be ≥ 1")):
        pst.set_max_tokens(model, 0)
    assert model.layers[0].blocks[0].attn.settings.max_tokens == 9


@options
def test_it_trains_every_parameter(option):
    layer = pst.PST(8, 8, 32, head_dim=8, max_tokens=6, **option).train()
    layer(torch.randn(2, 8, 13, 10), torch.randn(2, 8, 7, 5)).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=[] if o in (OPTIONS[0], OPTIONS[3]) else [pytest.mark.slow]) for o in OPTIONS],
    ids=str,
)
def test_it_compiles(option):
    layer = filled(pst.PST(8, 8, 32, head_dim=8, max_tokens=6, **option)).eval().double()
    inputs = maps(c=(8, 8))
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(*inputs), layer(*inputs))


@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=[] if o in (OPTIONS[0], OPTIONS[2]) else [pytest.mark.slow]) for o in OPTIONS],
    ids=str,
)
def test_it_is_exported_with_all_sizes_free(option):
    layer = filled(pst.PST(8, 8, 32, head_dim=8, max_tokens=6, **option)).eval().double()
    inputs = maps(c=(8, 8))
    free = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(layer, tuple(inputs), dynamic_shapes=(free, free)).module()
    for fine, coarse in (((12, 12), (6, 6)), ((17, 9), (5, 8))):
        others = maps(fine, coarse, (8, 8))
        assert_close(program(*others), layer(*others), 1e-10)


@pytest.mark.parametrize(
    "option",
    [
        OPTIONS[0],
        pytest.param(OPTIONS[1], marks=pytest.mark.slow),
        pytest.param(OPTIONS[2], marks=pytest.mark.slow),
        pytest.param(OPTIONS[3], marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_onnx_file_gives_the_same(option, tmp_path):
    pytest.importorskip("onnxscript", reason="the export extra is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    layer = filled(pst.PST(8, 8, 32, head_dim=8, max_tokens=6, **option)).eval()
    inputs = [t.float() for t in maps(c=(8, 8))]
    program = torch.onnx.export(layer, tuple(inputs), dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    [out] = session.run(None, dict(zip(names, (t.numpy() for t in inputs), strict=True)))
    with torch.no_grad():
        assert_close(torch.from_numpy(out), layer(*inputs), 1e-4)
