"""PST in the top-down fusions of a YOLO9 neck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from libreyolo.models.yolo9.nn import Conv
from torch import Tensor, nn

from pst.integrations.libreyolo.compat import LIBREYOLO
from pst.integrations.libreyolo.description import Description
from pst.io.versions import HostError
from pst.modules import PST

_HEAD_DIM = 32  # as in all of the paper's models


class Place(NamedTuple):
    """One top-down fusion of the neck: Upsample, concatenation with a finer map, and a block.

    Attributes:
        block: The block's attribute in the neck.
        upsample: The Upsample's attribute in the neck.
        coarse: Channels of the map that is upsampled.
        fine: Channels of the map that is concatenated to it.
        out: Channels that the block gives.
    """

    block: str
    upsample: str
    coarse: int
    fine: int
    out: int


def places(config: Mapping[str, Any]) -> dict[int, Place]:
    """The fusions of LibreYOLO's description of one size, by the stride of the finer map, coarsest first."""
    p5, p4, p3 = config["spp_out"], config["neck_elan_up1"][0], config["neck_elan_up2"][0]
    stages = config["stages"]
    found = {
        16: Place("elan_up1", "up1", p5, stages[1][1], p4),
        8: Place("elan_up2", "up2", p4, stages[0][1], p3),
    }
    if "neck_elan_up3" in config:  # YOLO9-P2
        found[4] = Place("elan_up3", "up3", p3, config["first_block_out"], config["neck_elan_up3"][0])
    return found


class PSTFusion(nn.Module):
    """`pst.PST` in the place of a block that gets the concatenation [coarser map upsampled ; finer map].

    x is that concatenation, as in the paper's detectors, and upper is the coarser map itself: the host upsamples it
    by repeating each position 2 × 2, so that every second position of every second row is that map, bit for bit.

    Args:
        place: Where it stands.
        **options: Those of `pst.PST`, save ``wiring``. ``head_dim`` is by default the widest up to 32 that fits.

    Raises:
        TypeError: An option has the wrong type, or there is none of its name.
        ValueError: Widths do not fit, or an option has a value that it cannot have.
    """

    def __init__(self, place: Place, **options: Any) -> None:
        super().__init__()
        self.coarse_channels = place.coarse
        hidden = int(place.out * options.get("expansion", 0.5))
        options.setdefault("head_dim", max((d for d in range(1, _HEAD_DIM + 1) if hidden % d == 0), default=1))
        self.pst = PST(place.coarse + place.fine, place.coarse, place.out, conv=host_conv, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, coarse + fine, H, W), H and W even -> (B, out, H, W)."""
        return self.pst(x, x[:, : self.coarse_channels, ::2, ::2])


def put_pst(neck: nn.Module, found: Mapping[int, Place], description: Description) -> None:
    """Put a fresh `PSTFusion` in the place of each block described, on its device and in its mode.

    Raises:
        HostError: The neck is not that of the LibreYOLO versions which pst was written for.
        TypeError: As `PSTFusion`.
        ValueError: As `PSTFusion`. Whatever is raised, nothing was changed.
    """
    fresh = {found[level].block: _fusion(neck, found[level], description.options) for level in description.levels}
    for name, module in fresh.items():
        setattr(neck, name, module)


def _fusion(neck: nn.Module, place: Place, options: Mapping[str, Any]) -> PSTFusion:
    upsample, block = getattr(neck, place.upsample, None), getattr(neck, place.block, None)
    doubles = isinstance(upsample, nn.Upsample) and (upsample.scale_factor, upsample.mode) == (2, "nearest")
    if not doubles or not isinstance(block, nn.Module):
        raise HostError(
            f"LibreYOLO's {type(neck).__name__} has no {place.block} behind an {place.upsample} that repeats positions "
            f"2 × 2, as that of {LIBREYOLO} has: pst has to be adapted to it"
        )
    return PSTFusion(place, **options).to(next(block.parameters())).train(block.training)


def host_conv(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1, act: bool = True
) -> nn.Module:
    """YOLO9's own ``Conv`` behind the signature of `pst.modules.ConvFactory`, so that its ``fuse()`` reaches PST."""
    return Conv(in_channels, out_channels, kernel_size, groups=groups, activation=act)
