"""Trains and evaluates every recipe and seed of the second task, pair by pair."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from lab.two_maps import frames, plan, trained
from lab.two_maps.labels import best, counts, truth
from lab.two_maps.networks import Memory, extractor
from lab.two_maps.rows import ROWS
from lab.two_maps.store import Store

FILE = "trained.json"
EVALUATIONS = (("val", 4), ("test", 8))  # split, and each n-th of its pairs 1 s apart


def run(camvid: Path, out: Path, *, every: int = 1, steps: int = trained.STEPS) -> None:
    """Train where an evaluation is missing: the same weights each time. What the result file holds is not run again."""
    settings = {
        "task": "trained",
        "network": plan.DEFAULT,
        "size": list(frames.SIZE),
        "width": trained.WIDTH,
        "steps": steps,
        "rate": trained.RATE,
        "recipes": trained.RECIPES,
    }
    store = Store(out / FILE, settings)
    wanted = {
        f"{plan.setting(split, 1)} {pair.first} {pair.second}": pair
        for split, thinned in EVALUATIONS
        for pair in frames.pairs(camvid, split, 1, thinned * every)
    }
    extract = extractor(plan.DEFAULT)
    learned = Memory(extract, lambda name: frames.image(camvid, name), most=400, dtype=torch.float16)
    seen = Memory(extract, lambda name: frames.image(camvid, name), most=200, dtype=torch.float16)
    for seed in trained.SEEDS:
        for recipe in (*trained.RECIPES, trained.UNTRAINED):
            lacking = {
                record: pair
                for record, pair in wanted.items()
                if store.lacks(f"{recipe}/{seed} {record}", trained.EVALUATED)
            }
            if not lacking:
                continue
            matcher, losses = _trained(camvid, recipe, seed, learned, steps)
            store.add(f"{recipe}/{seed}", {"loss": losses, "scale": round(matcher.log_scale.exp().item(), 2)})
            for record, pair in tqdm(lacking.items(), desc=f"{recipe}, seed {seed}", unit="pair", mininterval=2):
                store.add(f"{recipe}/{seed} {record}", _evaluate(camvid, pair, matcher, seen))
    for split, thinned in EVALUATIONS:
        store.finished(plan.setting(split, 1), thinned * every)


def _trained(camvid: Path, recipe: str, seed: int, features: Memory, steps: int) -> tuple[trained.Matcher, list[float]]:
    print(f"training {recipe}, seed {seed}", flush=True)
    pairs = frames.pairs(camvid, "train", 1)
    return trained.train(recipe, seed, pairs, features, trained.classes(camvid), steps)


@torch.inference_mode()
def _evaluate(camvid: Path, pair: frames.Pair, matcher: trained.Matcher, features: Memory) -> dict[str, list[int]]:
    true = frames.mask(camvid, pair.second)
    value = trained.classes(camvid)(pair.first)
    query, key = features(pair.second), features(pair.first)
    out = {"true": truth(true)}
    for name in trained.EVALUATED:
        out[name] = counts(best(matcher(ROWS[name], query, key, value)), true)
    return out
