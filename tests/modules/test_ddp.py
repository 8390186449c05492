"""Training in several processes: no parameter is left without a gradient, whatever k and fusion are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("ddp_worker.py")


def test_two_processes_train_every_parameter(tmp_path):
    init = (tmp_path / "rendezvous").as_uri()
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    workers = [subprocess.Popen([sys.executable, str(WORKER), str(rank), init], **pipes) for rank in range(2)]
    try:
        outputs = [worker.communicate(timeout=900) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # does nothing to one that has ended
    assert [worker.returncode for worker in workers] == [0, 0], outputs

    # 3 tensors each in 3 convolutions and 2 blocks of 6, and 2 in the gate of each block that has one
    expected = [
        "coarse: 45 of 49 parameters moved",  # the gates' gradients are zero
        "gate: 49 of 49 parameters moved",
        "refine: 45 of 45 parameters moved",
        "gate switched to refine: 45 of 49 parameters moved",
        "idle: True",
    ]
    said = [[line for line in out.splitlines() if not line.startswith("[Gloo]")] for out, _ in outputs]
    assert said == [expected, expected]
