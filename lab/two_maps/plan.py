"""What is run, the most important first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lab.two_maps.rows import RIVALS, ROWS, Row, of


@dataclass(frozen=True)
class Step:
    """Some rows on the pairs of one split.

    Attributes:
        network: From `networks.NETWORKS`.
        split: "val" or "test".
        seconds: From the first frame of a pair to the second.
        groups: Of rows, see `rows.Row`; "rival" is `rows.RIVALS`.
        every: Each n-th pair.
    """

    network: str
    split: str
    seconds: float
    groups: tuple[str, ...]
    every: int = 1

    @property
    def setting(self) -> str:
        """Split and time apart, e.g. "val-1"."""
        return setting(self.split, self.seconds)

    def rows(self) -> Mapping[str, Row | str]:
        """The rows by name; rows without unit length exist for the default network alone."""
        rows = {name: row for name, row in of(*self.groups).items() if row.unit or self.network == DEFAULT}
        return {**RIVALS, **rows} if "rival" in self.groups else dict(rows)


DEFAULT = "efficientnet-lite0"
STEP = 1 / 15  # CamVid's val frames

# a step that is thinned comes before the same step on more pairs, so that a run that is stopped has seen all of a split
STEPS = (
    Step(DEFAULT, "val", 1, ("rival", "main")),
    Step(DEFAULT, "test", 1, ("rival", "main")),
    Step(DEFAULT, "val", 1, ("more", "without")),
    Step("xfeat", "val", 1, ("main",)),
    Step(DEFAULT, "val", STEP, ("rival", "main"), 2),
    Step(DEFAULT, "val", 2, ("rival", "main"), 2),
    Step(DEFAULT, "val", 5, ("rival", "main")),
    Step(DEFAULT, "test", 1, ("more", "without"), 6),
    Step("xfeat", "test", 1, ("main",), 3),
    Step(DEFAULT, "val", STEP, ("rival", "main")),
    Step(DEFAULT, "val", 2, ("rival", "main")),
    Step(DEFAULT, "test", 1, ("more", "without"), 3),
    Step("xfeat", "test", 1, ("main",)),
)


def setting(split: str, seconds: float) -> str:
    """Split and time apart as one word."""
    return f"{split}-{'1/15' if seconds == STEP else seconds}"


assert all(step.rows() for step in STEPS)
assert set(RIVALS).isdisjoint(ROWS)
