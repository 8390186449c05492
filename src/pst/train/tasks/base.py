"""The interface between the loop and a task, and what all tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from pst.backbones.channels import per_channel
from pst.data.dataset import Batch, Images
from pst.data.images import Sample, Split
from pst.io.names import listed
from pst.train.config import Config

C = TypeVar("C", bound=Config)
Record = dict[str, Any]
"""What is kept of one validation image, ready for JSON; "index" is its position in the data set."""


class Task(ABC, Generic[C]):
    """Data, model, loss, prediction and metrics of one task.

    Attributes:
        config: Settings of the run.
        classes: Names in the order of their indices; read with the training data unless given.
        metric: Name of the metric, higher is better, that decides which checkpoint is best.
    """

    metric: ClassVar[str]

    def __init__(self, config: C, classes: tuple[str, ...] | None = None) -> None:
        self.config = config
        self._splits: dict[str, Split] = {}
        self.classes = self.split("train").classes if classes is None else classes

    def dataset(self, split: str) -> Images:
        """A split of the data, checked; see `Images` for what is refused."""
        found, c = self.split(split), self.config
        if found.classes != self.classes:
            raise ValueError(f"{c.data} has the classes {listed(found.classes)}, the model {listed(self.classes)}")
        load = self.loader(found, train=split == "train")
        data = Images(found.images, load, cache=c.cache == "ram", check=c.check_images, skip_corrupt=c.skip_corrupt)
        self.check(split, [found.targets[i] for i in data.kept])
        return data

    def check(self, split: str, targets: Sequence[Any]) -> None:
        """Refuse a split that can't be used, and warn of one that says nothing, before any work.

        ``targets`` are those of the images that are used; ValueError says which class has nothing to learn from.
        """

    def split(self, name: str) -> Split:
        """Files and targets of a split, read once; nothing is decoded."""
        if name not in self._splits:
            self._splits[name] = self.read(name)
        return self._splits[name]

    @abstractmethod
    def read(self, name: str) -> Split:
        """Files and targets of a split from the data set; ``classes`` may not be known yet."""

    @abstractmethod
    def loader(self, split: Split, *, train: bool) -> Callable[[int], Sample]:
        """A function that reads sample i; it may run in other threads and processes."""

    @abstractmethod
    def statistics(self, model: Any) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of images from 0 to 1, by which those that a model gets are normalised."""

    def normalise_for(self, model: nn.Module) -> None:
        """Have `normalised` use the `statistics` of ``model``."""
        channels, found = self.config.in_chans, self.statistics(model)
        self._mean, self._std = (255 * torch.tensor(per_channel(v, channels)).view(-1, 1, 1) for v in found)

    def normalised(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float from 0 to 255 as the network takes it, after `normalise_for`."""
        return (images - self._mean.to(images)) / self._std.to(images)

    @abstractmethod
    def build(self, *, pretrained: bool, backbone_weights: str | None = None) -> nn.Module:
        """The model, with fresh weights, or with published ones or those of a file in its backbone."""

    @abstractmethod
    def augment(self, batch: Batch) -> tuple[Any, Any]:
        """What the model trains on: inputs and targets, on the batch's device."""

    @abstractmethod
    def losses(self, model: nn.Module, inputs: Any, targets: Any) -> dict[str, Tensor]:
        """Parts of the loss; their sum is minimised."""

    @abstractmethod
    def inputs(self, images: Tensor) -> Any:
        """What the model takes in eval mode, for (B, C, S, S) uint8."""

    @abstractmethod
    def square(self, image: Tensor) -> Tensor:
        """(C, H, W) uint8 as the model gets it: (C, S, S) uint8."""

    @abstractmethod
    def predictions(self, output: Any, sizes: Tensor) -> list[Record]:
        """What was found in each image, from the model's output; ``sizes`` as in `Batch`."""

    @abstractmethod
    def records(self, output: Any, batch: Batch) -> list[Record]:
        """One record for each image of the batch."""

    @abstractmethod
    def metrics(self, records: Sequence[Record], split: Split) -> dict[str, float]:
        """Metrics over all records; shares are in [0, 1]."""

    @abstractmethod
    def columns(self, records: Sequence[Record], split: Split) -> dict[str, list[Any]]:
        """What a paired comparison of two models needs of every image, one list entry each."""
