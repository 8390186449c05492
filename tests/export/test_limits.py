"""What a target refuses, in one message, before anything is loaded."""

import sys

import pytest

from pst.export import FORMATS, MAX_TOPK, check_request


@pytest.fixture(autouse=True)
def _everything_installed(monkeypatch):
    monkeypatch.setattr("pst.export.limits.is_installed", lambda name: True)


@pytest.mark.parametrize("name", FORMATS)
def test_the_coarse_model_goes_everywhere(name):
    assert check_request(name) is FORMATS[name]


def test_k_has_tensorrts_limit():
    assert MAX_TOPK == 3840
    check_request("onnx", topk=3840)
    with pytest.raises(ValueError, match=r"topk is 3841, but TensorRT.* 3840 at most"):
        check_request("onnx", topk=3841)


@pytest.mark.parametrize(("name", "reason"), [("ncnn", "no TopK operator"), ("litert", "neither the sort")])
def test_coarse_is_offered_where_fine_cannot_run(name, reason):
    with pytest.raises(ValueError, match=rf"{name} cannot run topk=8.*{reason}.*coarse model, topk=0"):
        check_request(name, topk=8)


@pytest.mark.parametrize("name", FORMATS)
def test_a_bound_goes_everywhere_at_one_size(name):
    assert check_request(name, max_tokens=100) is FORMATS[name]


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("onnx", {"dynamic": True, "max_tokens": 9}, "dynamic onnx .*max_tokens=9.*leave dynamic .*export to pt2"),
        ("tflite", {}, "no format 'tflite': choose one of onnx, openvino"),
        ("ncnn", {"batch": 4}, "one image at a time here, got batch=4"),
        ("litert", {"dynamic": True}, "litert files have one size"),
        ("torchscript", {"half": True}, "FP16 on a GPU only: leave half out"),
        ("onnx", {"half": True, "int8": True, "data": "d.yaml"}, "exclude each other"),
        ("pt2", {"int8": True, "data": "d.yaml"}, "keeps softmax and gate in float: export to onnx, openvino"),
        ("onnx", {"int8": True}, "int8 needs data"),
    ],
)
def test_one_message_says_what_else_to_do(name, asked, message):
    with pytest.raises(ValueError, match=message):
        check_request(name, **asked)


@pytest.mark.parametrize(("name", "command"), [("coreml", "'numpy<=2.3.5'"), ("litert", "pip install litert-torch ")])
def test_what_our_extra_has_not_goes_into_an_environment_of_its_own(name, command, monkeypatch):
    monkeypatch.setattr("pst.export.limits.is_installed", lambda name: False)
    with pytest.raises(ImportError, match=rf"{name} needs .*: in an environment of its own.* {command}"):
        check_request(name)


def test_each_format_says_how_its_packages_are_installed():
    ours = {"onnx", "onnxruntime", "onnxslim", "openvino", "ncnn", "pnnx"}
    assert all(f.install or set(f.packages) <= ours for name, f in FORMATS.items() if name != "engine")


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("pst.export.limits.is_installed", lambda name: name != "nncf")
    check_request("openvino")
    with pytest.raises(ImportError, match=r"openvino needs nncf: pip install 'pyramid-sparse-transformer\[export\]'"):
        check_request("openvino", int8=True, data="d.yaml")


def test_the_package_imports_no_host():
    import subprocess

    code = "import sys, pst.export; print([m for m in ('ultralytics', 'onnx', 'openvino', 'nncf') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
