"""Build the wheel and the sdist, check what is in them, and use the wheel where nothing but torch is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST, BARE = ROOT / "dist", ROOT / "build" / "bare"
SDIST = (
    "src/pst/__init__.py",
    "lab",
    "tests",
    "docs",
    "hatch_build.py",
    "README.md",
    "LICENSE",
    "Makefile",
    "pyproject.toml",
)


def main() -> None:
    """Stop at the first thing that is wrong."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    check_contents(wheel, sdist)
    try:
        use(wheel)
    finally:
        shutil.rmtree(BARE, ignore_errors=True)  # PyTorch takes gigabytes
    print(f"built and used: {wheel.name}, {sdist.name}")


def check_contents(wheel: Path, sdist: Path) -> None:
    """The wheel holds the package alone, the sdist all that its tests need."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        readme = archive.read(metadata).decode().partition("\n\n")[2]
    strange = sorted(top for top in tops if top != "pst" and not top.endswith(".dist-info"))
    if strange:
        sys.exit(f"{wheel.name} holds {strange}, which is not part of the package")
    if relative := re.findall(r"\]\((?!https?://|#)[^)]*\)", readme):
        sys.exit(f"{wheel.name} has links in its description that lead nowhere outside of the repository: {relative}")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [entry for entry in SDIST if not any(name == entry or name.startswith(f"{entry}/") for name in names)]
    if missing:
        sys.exit(f"{sdist.name} lacks {missing}, which its tests need")


def use(wheel: Path) -> None:
    """Install the wheel into a new environment and run the command and README's example of the layer there."""
    venv.create(BARE, clear=True, with_pip=True)
    python = BARE / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    run(python, "-m", "pst", "--help", stdout=subprocess.DEVNULL)
    snippets = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    layer = next(code for code in snippets if "integrations" not in code)
    run(python, "-c", f"import pst\n{layer}")


def run(*command: object, **options: object) -> None:
    """Run a command outside the checkout's import path."""
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT / "build", **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    (ROOT / "build").mkdir(exist_ok=True)
    main()
