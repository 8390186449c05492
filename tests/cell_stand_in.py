"""A runner for the processes that tests start: what a cell does is its recipe's name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lab.study import cell_process
from lab.study.cell_process import Order
from lab.study.run import run_study
from lab.study.task import Task

main = cell_process.main


def stand_in_main(order: Order, note: Any) -> None:
    """Body of a cell's process with this runner in it."""
    cell_process.runner = lambda _: run
    main(order, note)


def run(task: Task) -> dict[str, object]:
    """Note in the data folder that the cell was begun, leave a checkpoint, and do what the recipe says."""
    checkpoint = task.work / "checkpoint"
    resumed = checkpoint.is_file()
    task.work.mkdir(exist_ok=True)
    checkpoint.touch()
    with (task.data_root / "begun").open("a", encoding="utf-8") as file:
        file.write(f"{task.cell.id} {os.getpid()}\n")
    task.say("at work")
    match task.cell.recipe:
        case "fail":
            raise RuntimeError("it broke")
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait" if not resumed:
            while True:
                time.sleep(0.05)
                task.say("waiting")
    return {"resumed": resumed}


if __name__ == "__main__":  # STUDY DATA_ROOT OUT
    cell_process.main = stand_in_main
    study, root, out = map(Path, sys.argv[1:])
    run_study(study, data_root=root, out=out)
