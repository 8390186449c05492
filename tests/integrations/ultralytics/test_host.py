"""What the command and the demo use of Ultralytics."""

from __future__ import annotations

import pytest
import torch

host = pytest.importorskip("pst.integrations.ultralytics.host", reason="the ultralytics extra is not installed")


@pytest.mark.parametrize("threads", [1, 3])
def test_checking_a_device_leaves_pytorchs_threads_alone(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        host.check_device("cpu")
        assert torch.get_num_threads() == threads
        if not torch.cuda.is_available():
            with pytest.raises(ValueError, match="CUDA"):
                host.check_device("0")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
