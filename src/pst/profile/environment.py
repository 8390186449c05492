"""Where a figure was measured: hardware, versions, commit. Written beside every result."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pst

PACKAGES = ("numpy", "onnxruntime", "timm", "torch", "torchvision", "ultralytics")


def environment() -> dict[str, object]:
    """Hardware, versions and commit, ready for JSON."""
    return {"hardware": hardware(), "versions": versions(), "commit": commit()}


def hardware() -> dict[str, object]:
    """Processor, cores that this process may use, PyTorch's threads, GPUs by name, operating system."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "os": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Version of Python, of pst and of each package in `PACKAGES` that is installed; nothing is imported."""
    found = {name: version_of(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "pst": pst.__version__,
        **{name: version for name, version in found.items() if version is not None},
    }


def version_of(distribution: str) -> str | None:
    """Installed version of a distribution, None when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Commit of the checkout that pst runs from, with "-dirty" when tracked files changed; None outside one.

    The environment variable PST_COMMIT comes before it, for a copy that has no history or an older one.
    """
    root = Path(pst.__file__).resolve().parents[2]
    if os.environ.get("PST_COMMIT"):
        return os.environ["PST_COMMIT"]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):  # git is missing, or refuses: the commit is unknown
        return None
    return described.stdout.strip()


def _cpu_name() -> str:
    """Model name where Linux tells it, else what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
