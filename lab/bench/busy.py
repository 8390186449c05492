"""What a training step takes on an idle and on a busy machine, by how long OpenMP's threads wait busily.

    python -m lab.bench.busy            # about eight minutes; on a machine that does nothing else
    python -m lab.bench.busy --page     # only writes docs/speed.md again

Each case is a process of its own, as the variables are read when PyTorch is loaded, and the cases take turns, so that
what the machine does at the time meets all of them; "busy" runs two processes of one thread each beside it. The steps
are those of `pst demo`: YOLO11n-PST, 8 images of 192 px, AdamW.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lab.page import replace_between
from pst.cli._waiting import CHOSEN, DEFAULTS
from pst.io.files import write_text
from pst.profile.environment import environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "speed.md"
MARKS = ("<!-- busy: made by lab/bench/busy.py -->", "<!-- end of busy -->")
RESULT = Path(__file__).resolve().parents[1] / "results" / "busy.json"
SETTINGS: dict[str, dict[str, str]] = {
    "PyTorch's own": {},
    "pst": DEFAULTS,
    "GOMP_SPINCOUNT=20000": {"GOMP_SPINCOUNT": "20000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
WARMUP = 2
BUSY = 2  # processes of one thread
ROUNDS = 3  # in which each case has its turn


def main() -> None:
    """Measure every setting, idle and busy, or one of them as the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of each case (%(default)s)")
    parser.add_argument("--seconds", type=float, default=12, help="a turn stops after them (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULT, help="(lab/results/busy.json)")
    parser.add_argument("--page", action="store_true", help="only write the table of docs/speed.md from the JSON")
    parser.add_argument("--step-times", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step_times:
        print(json.dumps(step_times(args.steps, args.seconds)))
        return
    if args.page:
        write_page(json.loads(args.out.read_text("utf-8")))
        return
    cases = [case for busy in (False, True) for case in _cases(busy, args.steps, args.seconds)]
    result = {"cases": cases, "busy_processes": BUSY, **environment()}
    result["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_text(args.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"Written: {args.out}")
    write_page(result)


def step_times(steps: int, seconds: float) -> list[float]:
    """Seconds of each training step of the demo's model on random images, at least one; the first two are dropped."""
    import torch

    threads = (
        torch.get_num_threads()
    )  # before Ultralytics is imported, which takes all but one; the demo keeps them too
    from ultralytics.cfg import get_cfg

    from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
    from pst.demo.settings import MODEL, TRAINING
    from pst.integrations.ultralytics import YOLO

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model: Any = YOLO(MODEL).model
    model.args = get_cfg()
    model.train().requires_grad_(True)
    batch = {
        "img": torch.rand(8, 3, 192, 192), "batch_idx": torch.arange(8).repeat_interleave(4).float(),
        "cls": torch.randint(0, 10, (32, 1)).float(), "bboxes": torch.rand(32, 4) * 0.3 + 0.3,
    }  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), TRAINING["lr0"])
    times, begin = [], time.perf_counter()
    while len(times) < WARMUP + steps and (len(times) <= WARMUP or time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        model(batch)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return times[WARMUP:]


def table(result: dict[str, Any]) -> str:
    """Where it was measured, and the Markdown table: a row for each setting, its seconds idle and busy."""
    where = result["hardware"]
    about = (
        f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads; torch {result['versions']['torch']}; "
        f"commit {str(result['commit'])[:12]}; {result['created']}."
    )
    lines = ["| environment | idle, s a step | busy, s a step |", "| --- | --: | --: |"]
    times = {(case["setting"], case["busy"]): f"{case['median_s']:.3f}" for case in result["cases"]}
    for case in result["cases"]:
        if not case["busy"]:
            name = case["setting"]
            said = "; ".join(f"`{key}={value}`" for key, value in case["environment"].items()) or name
            said += " (`pst`)" if name == "pst" else ""
            lines.append(f"| {said} | {times[name, False]} | {times[name, True]} |")
    return "\n".join([about, "", *lines])


def write_page(result: dict[str, Any]) -> None:
    """Put the table between its marks on the page."""
    write_text(PAGE, replace_between(PAGE.read_text("utf-8"), MARKS, table(result), PAGE))


def _cases(busy: bool, steps: int, seconds: float) -> Iterator[dict[str, Any]]:
    """All settings in `ROUNDS` rounds."""
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    loads: list[float] = []
    for _ in range(ROUNDS):
        for name, found in times.items():
            loads += os.getloadavg()[:1] if hasattr(os, "getloadavg") else []
            found += _turn(SETTINGS[name], BUSY if busy else 0, steps, seconds)
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{'busy' if busy else 'idle'}  {name:24} {median:6.3f} s a step, {len(found)} steps", flush=True)
        yield {
            "setting": name, "environment": SETTINGS[name], "busy": busy, "steps": len(found),
            "load_before": max(loads, default=None), "median_s": median, "min_s": min(found), "max_s": max(found),
        }  # fmt: skip


def _turn(variables: dict[str, str], beside: int, steps: int, seconds: float) -> list[float]:
    """Seconds of each step in a process with these variables."""
    own = {key: value for key, value in os.environ.items() if key not in (*CHOSEN, "OMP_NUM_THREADS")}
    with _beside(beside):
        done = subprocess.run(
            [sys.executable, "-m", "lab.bench.busy", "--step-times", f"--steps={steps}", f"--seconds={seconds}"],
            env=own | variables, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _beside(processes: int) -> Iterator[None]:
    """Processes of one thread that never rest, ended afterwards."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
