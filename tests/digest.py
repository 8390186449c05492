"""Run as a script: prints the fingerprint of each module's output on its inputs, from a file of such pairs."""

from __future__ import annotations

import sys

import torch

from battery import digest

if __name__ == "__main__":
    torch.set_num_threads(1)
    # pickled by the test that runs this
    for module, maps in torch.load(sys.argv[1], weights_only=False):
        sys.stdout.write(digest(module(*maps)) + "\n")
