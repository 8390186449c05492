"""Many clips on many machines with Ray Data: actors that each hold the network, one clip at a time.

    pip install 'ray[data]' 'pyramid-sparse-transformer[propagate]'
    python examples/propagate_ray.py clips/ masks/ runs/ --workers 8

The folders have the layout of ``pst propagate clips/ --masks masks/ --out runs/`` and must be on a disk that every
machine sees. Run it again after a failure: what is finished is skipped, what was interrupted goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray

from pst.propagate.clip import propagate_clip
from pst.propagate.many import find_clips
from pst.propagate.network import Network


class Worker:
    """An actor: its features are built at its first clip, and kept for those that follow."""

    def __init__(self, masks: str, out: str, **options: Any) -> None:
        device = options.pop("device")
        self.masks, self.out, self.options = Path(masks).resolve(), Path(out).resolve(), options
        self.network = Network(device=device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Carry one clip; a failure is a result as well, so that the others go on."""
        name, error, carried = row["name"], "", 0
        try:
            result = propagate_clip(
                row["clip"], self.masks / name, self.out / name, network=self.network, progress=False, **self.options
            )
            carried = result.carried
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        return {"name": name, "carried": carried, "error": error}


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run all clips; what became of each."""
    parser = argparse.ArgumentParser(description="Carry masks through many clips with Ray Data.")
    parser.add_argument("clips")
    parser.add_argument("masks")
    parser.add_argument("out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=480)
    parser.add_argument("--device", default="cpu", help="cuda gives every worker a GPU")
    args = parser.parse_args(argv)

    clips = [{"name": name, "clip": str(path.resolve())} for name, path in find_clips(Path(args.clips)).items()]
    options = {"size": args.size, "device": args.device, "masks": args.masks, "out": args.out}
    pool = ray.data.ActorPoolStrategy(size=args.workers)
    results = (
        ray.data.from_items(clips, override_num_blocks=len(clips))
        .map(Worker, fn_constructor_kwargs=options, compute=pool, num_gpus=int(args.device == "cuda"))
        .take_all()
    )
    for result in sorted(results, key=lambda r: r["name"]):
        print(f"{result['name']}: {result['error'] or result['carried']}")
    return results


if __name__ == "__main__":
    main()
