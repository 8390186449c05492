"""Ultralytics' own multi-GPU training on two processes of the CPU; all but the choice of devices is the host's."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOCAL_RANK, RANK
from ultralytics.utils.torch_utils import strip_optimizer


class CpuDistributedDataParallel(DistributedDataParallel):
    """Without ``device_ids``, which the CPU has none of."""

    def __init__(self, module: nn.Module, device_ids: list[Any], **kwargs: Any) -> None:
        super().__init__(module, **kwargs)


class CpuTrainer(DetectionTrainer):
    """For ``yolo.train(trainer=CpuTrainer, device="cpu")``: launches two workers, as the host does for two GPUs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.world_size = 2
        self.ddp = LOCAL_RANK == -1

    def _setup_ddp(self) -> None:
        dist.init_process_group("gloo", rank=RANK, world_size=2)

    def _setup_train(self) -> None:
        with mock.patch.object(nn.parallel, "DistributedDataParallel", CpuDistributedDataParallel):
            super()._setup_train()

    def final_eval(self) -> None:
        """The host's without its last validation, which asks for the GPU of this rank."""
        if RANK == 0:
            for file in (self.last, self.best):
                strip_optimizer(file)
