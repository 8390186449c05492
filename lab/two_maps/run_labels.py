"""Runs the steps of the first task, pair by pair; one result file for each network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lab.two_maps import frames, labels, plan, scales
from lab.two_maps.networks import Memory, extractor, missing, raw_extractor
from lab.two_maps.rows import RAW_OF, Row
from lab.two_maps.store import Store


def file(network: str) -> str:
    """Name of the result file."""
    return f"labels-{network}.json"


def run(camvid: Path, out: Path, *, every: int = 1, steps: Sequence[plan.Step] = plan.STEPS) -> None:
    """Evaluate every step's rows on its pairs; what the result files hold already is not run again.

    Args:
        camvid: Folder of CamVid.
        out: Folder of the result files.
        every: Of each step's pairs only each n-th.
        steps: What to run.
    """
    chosen = scales.choose(camvid, out)
    memories: dict[str, dict[bool, Memory]] = {}
    for step in steps:
        reason = missing(step.network)
        if reason is not None:
            print(f"left out: {step.network}, {step.setting}: {reason}")
            continue
        if step.network not in memories:
            memories = {step.network: _memories(camvid, step.network)}  # of one network at a time
        rows = step.rows()
        factors = {True: chosen[step.network], False: chosen[RAW_OF]}
        store = Store(out / file(step.network), _settings(step, factors))
        _run_step(camvid, step, store, memories[step.network], factors, every, list(rows))


def _run_step(
    camvid: Path,
    step: plan.Step,
    store: Store,
    features: dict[bool, Memory],
    factors: dict[bool, float],
    every: int,
    names: list[str],
) -> None:
    pairs = frames.pairs(camvid, step.split, step.seconds, step.every * every)
    rows = step.rows()
    title = f"{step.network} {step.setting} {'+'.join(step.groups)}"
    for pair in tqdm(pairs, desc=title, unit="pair", mininterval=2):
        record = f"{step.setting} {pair.first} {pair.second}"
        lacking = store.lacks(record, names)
        if lacking:
            with torch.inference_mode():
                store.add(record, labels.evaluate(camvid, pair, {n: rows[n] for n in lacking}, features, factors))
    for group in step.groups:
        store.finished(f"{step.setting} {group}", step.every * every)


def _memories(camvid: Path, network: str) -> dict[bool, Memory]:
    made: dict[bool, Callable[[], Callable[[Tensor], Tensor]]] = {True: lambda: extractor(network)}
    if network == plan.DEFAULT:
        made[False] = raw_extractor
    return {unit: Memory(make(), lambda name: frames.image(camvid, name)) for unit, make in made.items()}


def _settings(step: plan.Step, factors: dict[bool, float]) -> dict[str, object]:
    rows = {f"row {name}": row.settings() for name, row in step.rows().items() if isinstance(row, Row)}
    return {
        "task": "labels",
        "network": step.network,
        "size": list(frames.SIZE),
        "scale": factors[True],
        "scale without unit length": factors[False],
        **rows,
    }
