"""What a run ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import pst


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_hardware(device: str) -> str:
    """Processor and cores, and the GPUs when ``device`` is not the CPU."""
    cpu = f"{_cpu_name()}, {available_cores()} cores"
    if device == "cpu" or not torch.cuda.is_available():
        return cpu
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(gpus)}; {cpu}"


def describe_versions() -> str:
    """Python, pst, and the libraries that the numbers depend on."""
    names = ["torch", "ultralytics", "numpy", "opencv-python", "scikit-learn"]
    found = [f"{name} {_version(name)}" for name in names]
    return ", ".join([f"Python {platform.python_version()}", f"pst {pst.__version__}", *found])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
