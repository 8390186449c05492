"""Run every section of the GPU benchmark in a process of its own and gather one JSON: lab/bench/gpu/run.sh calls this.

    python -m lab.bench.gpu.measure --out lab/results/gpu.json --only correctness,modules --budget 540

A section that fails, crashes the device or runs too long is recorded with its error text; what it had measured until
then is kept. With ``--only``, sections that the file has from the same machine and commit stay in it, so that two short
runs make one file. ``--device cpu --quick`` runs the same code at small sizes without a GPU. Where the sources are no
checkout, the environment variable PST_COMMIT says what they are of.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from lab.bench.gpu.bounded import bounded
from lab.bench.gpu.correctness import correctness
from lab.bench.gpu.kernel import dispatch, tiles
from lab.bench.gpu.modes import backends, compiled, graphs
from lab.bench.gpu.short_training import training
from lab.bench.gpu.speed import classifiers, detectors, modules
from lab.bench.gpu.summary import tables
from lab.bench.gpu.window import window
from lab.bench.speed_page import markdown
from pst.io.files import write_text
from pst.profile.environment import environment

# In order of worth: what the budget leaves no time for is recorded as left out. (section, seconds at most)
SECTIONS = {
    "correctness": (correctness, 200),
    "window": (window, 90),
    "dispatch": (dispatch, 180),
    "bounded": (bounded, 90),
    "graphs": (graphs, 60),
    "compiled": (compiled, 240),
    "detectors": (detectors, 120),
    "classifiers": (classifiers, 60),
    "training": (training, 60),
    "modules": (modules, 110),
    "backends": (backends, 30),
    "tiles": (tiles, 90),
}
ALL, SEED = ",".join(SECTIONS), 0


def main() -> int:
    """Exit code: 0 when every section passed, 1 when one failed or was left out."""
    args = _parse()
    if args.section:
        return _run_section(args)
    begin = time.monotonic()
    result: dict[str, Any] = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {"device": args.device, "quick": args.quick, "seed": SEED},
        **environment(),
        "sections": {},
    }
    result["sections"] = _kept(args.out, result) if args.only != ALL else {}
    for name in args.only.split(","):
        left = args.budget - (time.monotonic() - begin)
        result["sections"][name] = section = _start(name, min(SECTIONS[name][1], left), args)
        print(f"{name:<12} {section['status']:<8} {section['seconds']:6.1f} s  {section.get('error', '')[-300:]}")
        result["seconds"] = round(sum(section["seconds"] for section in result["sections"].values()), 1)
        write_text(args.out, json.dumps(result, indent=1) + "\n")
    bad = [n for n in args.only.split(",") if result["sections"][n]["status"] not in ("passed", "skipped")]
    for title, table in tables({name: result["sections"][name] for name in args.only.split(",")}):
        print(f"\n## {title}\n\n{markdown(table)}\n")
    print(f"{'Not passed: ' + ', '.join(bad) if bad else 'All passed'}; written: {args.out}")
    return 1 if bad else 0


def _kept(out: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Sections of a file that was written before with what is running now; of any other file none."""
    if not out.is_file():
        return {}
    before = json.loads(out.read_text())
    if differing := [what for what, value in _origin(result).items() if _origin(before)[what] != value]:
        print(f"{out} has another {' and '.join(differing)}: its sections are not kept")
        return {}
    return before["sections"]


def _origin(result: dict[str, Any]) -> dict[str, Any]:
    """What results that stand in one file have in common."""
    return {
        "settings": result["settings"],
        "GPU": result["hardware"]["gpus"],
        "version of torch": result["versions"]["torch"],
        "commit": result["commit"],
    }


def _start(name: str, limit: float, args: argparse.Namespace) -> dict[str, Any]:
    """Run one section in a process of its own; its records, status and error."""
    if limit < 10:
        return {"status": "left out", "seconds": 0.0, "error": "no time left in the budget", "records": []}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.json"
        command = [
            sys.executable,
            "-m",
            "lab.bench.gpu.measure",
            "--section",
            name,
            "--out",
            str(part),
            "--device",
            args.device,
        ]
        log = Path(folder) / "log"
        with log.open("w") as stream:
            try:
                code = subprocess.run(
                    [*command, *(["--quick"] if args.quick else [])], stdout=stream, stderr=subprocess.STDOUT,
                    timeout=limit, check=False,
                ).returncode  # fmt: skip
                error = None if code == 0 else f"exit code {code}: {log.read_text(errors='replace')[-2000:]}"
            except subprocess.TimeoutExpired:
                error = f"stopped after {limit:.0f} s: {log.read_text(errors='replace')[-1000:]}"
        section: dict[str, Any] = json.loads(part.read_text()) if part.exists() else {"records": []}
    section["seconds"] = round(time.monotonic() - begin, 1)
    if error is not None:
        section |= {"status": "failed", "error": section.get("error", error)}
    return section


def _run_section(args: argparse.Namespace) -> int:
    """In the child: every record is on disk as soon as it is measured."""
    records: list[dict[str, Any]] = []
    status: dict[str, Any] = {"status": "running"}

    def save(record: dict[str, Any] | None = None) -> None:
        if record is not None:
            records.append(record)
        write_text(args.out, json.dumps({**status, "records": records}))

    torch.manual_seed(SEED)
    try:
        SECTIONS[args.section][0](args.device, args.quick, save)
    except ImportError as error:
        status = {"status": "skipped", "error": str(error)}
    except Exception as error:
        status = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    else:
        failures = [r for r in records if r.get("ok") is False]
        status = {"status": "failed" if failures else "passed"}
        if failures:
            status["error"] = f"{len(failures)} of {len(records)} records are not ok; the first: {failures[0]}"
    save()
    return int(status["status"] == "failed")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lab/results/gpu.json"))
    parser.add_argument("--only", default=ALL, help="sections, with commas between them")
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything (%(default)s)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)  # in the child
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
