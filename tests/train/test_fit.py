"""A run of each task: what it writes, that it learns, that a killed one goes on bit for bit, in two processes."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pst.io.checkpoints import load_safetensors
from pst.train import evaluate, fit, load_config, loop
from train_runs import TASKS, settings, stopping

WORKER = Path(__file__).parent.parent / "train_runs.py"


def config_file(root: Path, task: str, **more) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"{task}.yaml"
    path.write_text(yaml.safe_dump(settings(task, root, **more)))
    return path


def run_worker(
    configs: dict[str, Path], *, kill_after: int = 0, processes: int = 1
) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(WORKER), str(kill_after), *(f"{task}={file}" for task, file in configs.items())]
    base = os.environ | {"OMP_NUM_THREADS": "1"}
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    workers = []
    for rank in range(processes):
        env = base if processes == 1 else base | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        workers.append(subprocess.Popen(command, env=env, **pipes))
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # does nothing to one that has ended
    return [
        subprocess.CompletedProcess(command, worker.returncode, output)
        for worker, output in zip(workers, outputs, strict=True)
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_safetensors(run / "last.safetensors")[0]


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.mark.parametrize("task", TASKS)
def test_a_run_leaves_weights_settings_and_figures(task, tmp_path):
    config = load_config(task, overrides=settings(task, tmp_path))
    run = fit(config)
    assert run == tmp_path / "run"
    assert {"best.safetensors", "last.safetensors", "config.yaml", "results.csv", "state.pt"} == {
        file.name for file in run.iterdir()
    }
    assert load_config(task, run / "config.yaml") == load_config(task, overrides={**config.resolved(), "task": task})
    with (run / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(value) >= 0 for name, value in rows[0].items() if name.startswith("loss_"))
    assert any(name.startswith("val_") for name in rows[0])
    metrics = evaluate(run / "last.safetensors")["metrics"]
    assert {f"val_{name}": pytest.approx(float(rows[-1][f"val_{name}"])) for name in metrics} == {
        f"val_{name}": value for name, value in metrics.items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_stopped_run_ends_with_the_same_bits(task, tmp_path, monkeypatch):
    whole = fit(load_config(task, config_file(tmp_path / "whole", task, save_steps=1)))
    config = load_config(task, config_file(tmp_path / "stopped", task, save_steps=1))

    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "seed_step", stopping(loop.seed_step, 2, stop))
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    run = tmp_path / "stopped" / "run"
    progress = torch.load(run / "state.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 2)
    torch.rand(7)  # nothing depends on the generators' state
    fit(config, resume=True)
    assert_same_bits(weights(whole), weights(run))
    assert figures(whole) == figures(run)


def test_a_killed_process_ends_with_the_same_bits(tmp_path):
    options = {"accumulate": 2, "batch": 2, "save_steps": 2}  # the kill loses a step and a half
    whole = fit(load_config("classify", config_file(tmp_path / "whole", "classify", **options)))
    config = config_file(tmp_path / "killed", "classify", **options)
    killed = run_worker({"classify": config}, kill_after=5)[0]
    assert killed.returncode == -9, killed.stdout
    run = tmp_path / "killed" / "run"
    progress = torch.load(run / "state.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (0, 4, 2)
    fit(load_config("classify", config), resume=True)
    assert_same_bits(weights(whole), weights(run))
    assert figures(whole) == figures(run)


def figures(run: Path) -> list[dict[str, str]]:
    """Rows of the CSV file without the time."""
    rows = list(csv.DictReader((run / "results.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_workers_and_the_cache_change_nothing(tmp_path):
    plain = settings("classify", tmp_path)
    runs = [
        fit(load_config("classify", overrides={**plain, **more, "out": str(tmp_path / str(i))}))
        for i, more in enumerate(({"cache": "ram"}, {"cache": "none"}, {"workers": 1, "check_images": False}))
    ]
    for run in runs[1:]:
        assert_same_bits(weights(runs[0]), weights(run))


def test_another_seed_gives_other_weights(tmp_path):
    plain = settings("classify", tmp_path, max_steps=1)
    one, two = (
        fit(load_config("classify", overrides={**plain, "seed": s, "out": str(tmp_path / str(s))})) for s in (1, 2)
    )
    assert any(not torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    done = run_worker({task: config_file(tmp_path / task, task, epochs=1) for task in TASKS}, processes=2)
    assert [worker.returncode for worker in done] == [0, 0], "\n".join(worker.stdout for worker in done)
    for task, images in {"classify": 12, "detect": 8, "segment": 8}.items():
        run = tmp_path / task / "run"
        state = torch.load(run / "state.pt", weights_only=True)["progress"]
        assert state["step"] == images // (2 * TASKS[task]["batch"])  # half of the steps of one process
        metrics = evaluate(run / "last.safetensors")["metrics"]
        assert metrics == {name: pytest.approx(float(figures(run)[-1][f"val_{name}"])) for name in metrics}


def test_a_run_is_not_overwritten_and_settings_may_not_change(tmp_path):
    plain = settings("classify", tmp_path, max_steps=1)
    fit(load_config("classify", overrides=plain))
    before = weights(tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        fit(load_config("classify", overrides=plain))
    with pytest.raises(ValueError, match=r"lr=0.001 \(now 0.5\)"):
        fit(load_config("classify", overrides={**plain, "lr": 0.5}), resume=True)
    fit(load_config("classify", overrides=plain), resume=True)  # finished: nothing is done
    assert_same_bits(before, weights(tmp_path / "run"))


def test_it_learns(tmp_path):
    plain = settings("classify", tmp_path, epochs=25, lr=3e-3, cache="ram", weight_decay=0.0, val_every=25)
    metrics = evaluate(fit(load_config("classify", overrides=plain)))["metrics"]
    assert metrics["top1"] >= 0.8  # chance is a third
