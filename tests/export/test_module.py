"""`to_onnx` and `to_pt2` of a plain module: run at other sizes and batches than traced, and compared with eager."""

import errno
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pst
from pst.export import compare, load, newest_opset, onnx_to_float16, quantize_onnx, to_onnx, to_pt2
from pst.functional.selection import Nearest, Random, Window
from pst.io.files import WriteError

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")

TRACED = ((8, 12), (4, 6))
OTHERS = [((8, 12), (4, 6), 2), ((12, 8), (6, 4), 1), ((16, 20), (8, 10), 3)]


def layer(topk: int, fusion: str = "gate") -> pst.PST:
    torch.manual_seed(1)
    module = pst.PST(16, 24, 64, topk=topk, fusion=fusion)  # type: ignore[arg-type]
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    return module.eval()


def maps(fine: tuple[int, int], coarse: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 16, *fine), torch.randn(batch, 24, *coarse)


def others() -> list[tuple[Tensor, Tensor]]:
    return [maps(*sizes) for sizes in OTHERS]


@pytest.mark.parametrize("opset", [17, "newest"])
@pytest.mark.parametrize(("topk", "fusion"), [(0, "gate"), (8, "gate"), (8, "refine")])
def test_onnx_runs_at_other_sizes(tmp_path, topk, fusion, opset):
    module = layer(topk, fusion)
    opset = newest_opset() if opset == "newest" else opset
    path = to_onnx(
        module, maps(*TRACED), tmp_path / "layer.onnx", opset=opset, dynamic=True, metadata={"pst_topk": "8"}
    )
    gap = compare(module, load(path, threads=1), others())
    assert gap.max < 1e-5 * max(gap.scale, 1)
    model = onnx.load(path)
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {opset}
    assert {entry.key: entry.value for entry in model.metadata_props}["pst_topk"] == "8"


def test_newest_opset_is_newer_than_what_the_tracer_writes():
    assert newest_opset() > 20


def test_k_is_a_constant_of_the_graph(tmp_path):
    path = to_onnx(layer(8), maps(*TRACED), tmp_path / "layer.onnx", dynamic=True)
    graph = onnx.load(path).graph
    constants = {
        n.output[0]: onnx.numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"
    }
    constants |= {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    (topk,) = [node for node in graph.node if node.op_type == "TopK"]
    assert constants[topk.input[1]].tolist() == [8]
    assert not any(node.op_type == "Mod" for node in graph.node if "Gather" not in node.name and "/attn/" in node.name)


def test_a_traced_file_of_open_sizes_has_no_bound(tmp_path):
    module = layer(0)
    pst.set_max_tokens(module, 4)
    with pytest.raises(ValueError, match=r"dynamic ONNX file cannot have max_tokens=4.* export to pt2"):
        to_onnx(module, maps(*TRACED), tmp_path / "layer.onnx", dynamic=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fusion", ["gate", "refine"])
@pytest.mark.parametrize(
    "rule",
    ["mass", "nucleus", "query", "random", "window", "nearest", Window(3), Nearest(3), Random(1, grid=4)],
    ids=repr,
)
def test_every_rule_runs_at_other_sizes(tmp_path, rule, fusion):
    """Blocks of queries too where they divide the traced map and not the others, and on maps smaller than the grid."""
    module = layer(3, fusion)
    pst.set_selection(module, rule)
    run = load(to_onnx(module, maps(*TRACED), tmp_path / "layer.onnx", dynamic=True), threads=1)
    sizes = [*OTHERS, ((10, 14), (5, 7), 2), ((6, 22), (3, 11), 1), ((4, 6), (2, 3), 1)]
    gap = compare(module, run, [maps(*each) for each in sizes])
    assert gap.max < 1e-5 * max(gap.scale, 1)


@pytest.mark.parametrize("kind", ["onnx", "pt2", "half"])
def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, kind):
    path = tmp_path / f"layer.{kind}"
    path.write_bytes(b"of a day before")
    source = to_onnx(layer(2), maps(*TRACED), tmp_path / "source.onnx")

    def full(_model, file, **_options):
        Path(file).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(onnx, "save", full)
    monkeypatch.setattr(torch.export, "save", full)
    write = {"onnx": to_onnx, "pt2": to_pt2}.get(kind)
    with pytest.raises(WriteError, match="cannot write"):
        onnx_to_float16(source, path) if write is None else write(layer(2), maps(*TRACED), path)
    assert path.read_bytes() == b"of a day before"
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "source.onnx"]


def test_a_static_file_keeps_its_size(tmp_path):
    run = load(to_onnx(layer(8), maps(*TRACED), tmp_path / "layer.onnx"), threads=1)
    with pytest.raises(Exception, match=r"(?i)invalid dimensions|got invalid"):
        run(*maps((12, 8), (6, 4), 2))


def test_threads_of_a_finished_call_do_not_wait_busily(tmp_path, monkeypatch):
    """Spinning threads of one file would take the processor from the next: benchmarks run several in turn."""
    import onnxruntime

    path = to_onnx(layer(0), maps(*TRACED), tmp_path / "layer.onnx")
    session, seen = onnxruntime.InferenceSession, []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda p, o, **kw: (seen.append(o), session(p, o, **kw))[1])
    run = load(path, threads=1)
    assert [o.get_session_config_entry("session.force_spinning_stop") for o in seen] == ["1"]
    assert run(*maps(*TRACED)).isfinite().all()


def test_training_mode_survives_an_export(tmp_path):
    module = layer(8).train()
    module.blocks[0].eval()
    before = [m.training for m in module.modules()]
    to_onnx(module, maps(*TRACED), tmp_path / "layer.onnx")
    to_pt2(module, maps(*TRACED), tmp_path / "layer.pt2")
    assert [m.training for m in module.modules()] == before


def test_float16_keeps_the_scores_in_float32(tmp_path):
    module = layer(8)
    path = to_onnx(module, maps(*TRACED), tmp_path / "layer.onnx", dynamic=True)
    half = onnx_to_float16(path, tmp_path / "half.onnx")
    weights = [t for t in onnx.load(half).graph.initializer if "weight" in t.name or "Conv" in t.name]
    assert {t.data_type for t in weights} == {onnx.TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(onnx.load(half))
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    (topk,) = [node for node in inferred.graph.node if node.op_type == "TopK"]
    assert kinds[topk.input[0]] == onnx.TensorProto.FLOAT
    gap = compare(module, load(half, threads=1), others())
    assert 1e-5 < gap.max < 0.02 * gap.scale  # 2⁻¹¹ a rounding, a few dozen of them in a row


def test_int8_rounds_convolutions_alone(tmp_path):
    class Net(torch.nn.Module):
        """One input, as images have, and a softmax before a convolution, as box decoding has."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 24, 3, 2, padding=1)
            self.fine = torch.nn.Conv2d(3, 16, 1)
            self.pst = layer(8)
            self.decode = torch.nn.Conv2d(64, 1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.pst(self.fine(x), self.stem(x)).softmax(1))

    torch.manual_seed(0)
    module = Net().eval()
    path = to_onnx(module, (torch.randn(1, 3, 16, 16),), tmp_path / "net.onnx")
    batches = [torch.randn(1, 3, 16, 16).numpy() for _ in range(4)]
    small = quantize_onnx(path, tmp_path / "int8.onnx", batches)
    graph = onnx.load(small).graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    rounded = {kind for n in graph.node if n.op_type == "DequantizeLinear" for kind in readers[n.output[0]]}
    assert "Conv" in rounded
    assert rounded.isdisjoint({"MatMul", "Gemm", "Softmax", "TopK"})
    producers = {name: node for node in graph.node for name in node.output}
    (gate,) = [n for n in graph.node if n.op_type == "Sigmoid" and n.name.endswith("/attn/Sigmoid")]
    assert producers[gate.input[0]].op_type == "Add"  # of the linear layer: no rounding in between
    (decode,) = [n for n in graph.node if n.op_type == "Conv" and n.name.startswith("/decode")]
    assert producers[decode.input[0]].op_type == "Softmax"
    gap = compare(module, load(small, threads=1), [(torch.randn(1, 3, 16, 16),) for _ in range(3)])
    assert 0 < gap.mean < 0.01 * gap.scale  # not the maximum: a head may have ranked rounded queries otherwise


def test_int8_without_images_is_refused(tmp_path):
    module = torch.nn.Conv2d(3, 4, 1)
    path = to_onnx(module, (torch.randn(1, 3, 4, 4),), tmp_path / "conv.onnx")
    with pytest.raises(ValueError, match=r"no batches|No data|calibrat"):
        quantize_onnx(path, tmp_path / "int8.onnx", [])


@pytest.mark.slow
@pytest.mark.parametrize(("topk", "fusion"), [(0, "gate"), (8, "gate"), (8, "refine")])
def test_pt2_is_the_model_itself(tmp_path, topk, fusion):
    module = layer(topk, fusion)
    path = to_pt2(module, maps(*TRACED), tmp_path / "layer.pt2", metadata={"pst_topk": topk})
    gap = compare(module, load(path), [maps(*TRACED) for _ in range(2)])
    assert gap.max < 1e-5 * max(gap.scale, 1)
    extra = {"pst.json": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["pst.json"]) == {"pst_topk": topk}


@pytest.mark.slow
def test_pt2_runs_at_other_sizes(tmp_path):
    module = layer(4)
    path = to_pt2(module, maps(*TRACED), tmp_path / "layer.pt2", dynamic=True)
    gap = compare(module, load(path), [maps((11, 7), (4, 3), 2), maps((16, 20), (7, 9), 3)])  # no ratio is assumed
    assert gap.max < 1e-5 * max(gap.scale, 1)


def test_pt2_of_half_takes_float32_images(tmp_path):
    module = layer(8)
    path = to_pt2(layer(8).half(), [t.half() for t in maps(*TRACED)], tmp_path / "half.pt2")
    gap = compare(module, load(path), [maps(*TRACED)])
    assert 1e-5 < gap.max < 0.02 * gap.scale


def test_errors_name_what_was_wanted(tmp_path):
    example = maps(*TRACED)
    with pytest.raises(ValueError, match=f"opset must be from 17 to {newest_opset()}.*got 16"):
        to_onnx(layer(0), example, tmp_path / "x.onnx", opset=16)
    with pytest.raises(FileNotFoundError, match="no folder"):
        to_pt2(layer(0), example, tmp_path / "none" / "x.pt2")
    with pytest.raises(ValueError, match=r"≥ 2, got \(1, 16, 8, 12\): pass a larger example"):
        to_pt2(layer(0), maps(*TRACED, batch=1), tmp_path / "x.pt2", dynamic=True)
    with pytest.raises(FileNotFoundError, match="no exported model"):
        load(tmp_path / "x.onnx")
    (tmp_path / "x.bin").touch()
    with pytest.raises(ValueError, match="no known format"):
        load(tmp_path / "x.bin")
    (tmp_path / "x.mlpackage").mkdir()
    with pytest.raises(ValueError, match="Core ML needs macOS"):
        load(tmp_path / "x.mlpackage")


def test_labels_are_compared_as_labels():
    one, other = torch.tensor([[0, 1, 2, 9]]), torch.tensor([[0, 1, 3, 1]])
    assert compare(lambda _: one, lambda _: other, [(one,)], labels=True) == (1.0, 0.5, 1.0)
    assert compare(lambda _: one, lambda _: one, [(one,)], labels=True) == (0.0, 0.0, 1.0)


def test_compare_refuses_what_means_nothing():
    x = torch.ones(1, 2)
    assert compare(lambda t: t, lambda t: t + 0.5, [(x,), (2 * x,)]) == (0.5, 0.5, 2.0)
    with pytest.raises(ValueError, match=r"shape \(1, 1\), the model \(1, 2\)"):
        compare(lambda t: t, lambda t: t[:, :1], [(x,)])
    with pytest.raises(ValueError, match="not finite"):
        compare(lambda t: t, lambda t: t / 0, [(x,)])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(lambda t: t, lambda t: t, [])


@pytest.mark.slow
def test_a_file_is_readable_without_pst(tmp_path: Path):
    """The program holds operators alone, so torch.export.load needs no class of ours."""
    import subprocess
    import sys

    path = to_pt2(layer(8), maps(*TRACED), tmp_path / "layer.pt2")
    code = f"import sys, torch; torch.export.load({str(path)!r}); print('pst' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("write", [to_onnx, to_pt2])
def test_one_tensor_in_the_place_of_a_tuple_is_refused(write, tmp_path):
    with pytest.raises(TypeError, match=r"a tuple of tensors, got one tensor: write \(x,\)"):
        write(torch.nn.ReLU(), torch.zeros(2, 3, 8, 8), tmp_path / "layer.file")
    assert not list(tmp_path.iterdir())


class Nested(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        a, b = x * 2, x.mean(1)
        return {"ordered": OrderedDict(a=a, b=b), "dict": {"a": a, "b": b}, "nested": ((a, b), b)}[self.kind]


@pytest.mark.parametrize("kind", ["ordered", "dict", "nested"])
def test_results_in_containers(kind, tmp_path):
    x = torch.randn(1, 3, 4, 4)
    for path in (to_pt2(Nested(kind), (x,), tmp_path / "a.pt2"), to_onnx(Nested(kind), (x,), tmp_path / "a.onnx")):
        torch.testing.assert_close(load(path)(x), x * 2)
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [out.name for out in graph.output] == [f"output{i}" for i in range(3 if kind == "nested" else 2)]


class Pyramid(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pyramid = pst.PSTPyramid([4, 4, 4], 64)

    def forward(self, *maps: torch.Tensor) -> Any:
        return self.pyramid(list(maps))


def test_every_output_has_a_number(tmp_path):
    maps = [torch.randn(1, 4, size, size) for size in (16, 8, 4)]
    path = to_onnx(Pyramid(), maps, tmp_path / "a.onnx")
    assert [out.name for out in onnx.load(path).graph.output] == ["output0", "output1", "output2"]
