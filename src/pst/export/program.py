"""``torch.export`` programs, ``.pt2``: graph and weights that ``torch.export.load`` reads without any code of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pst.control.layers import eval_mode
from pst.export.limits import check_inputs
from pst.io.files import check_parent, replacing

METADATA = "pst.json"


def to_pt2(
    module: nn.Module,
    example_inputs: Sequence[Tensor],
    path: str | Path,
    *,
    dynamic: bool | Any = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Export a module to a ``.pt2`` file.

    Args:
        module: Any module; it is exported in eval mode and given its own mode back.
        example_inputs: Its tensors, at a size that is representative: with ``dynamic`` no size may be 0 or 1, and a
            coarse map must have more than k tokens.
        path: The file to write; replaced when it exists.
        dynamic: True leaves batch, height and width of every (B, C, H, W) input open, none tied to another. For
            sizes that are tied pass ``dynamic_shapes`` of ``torch.export.export`` itself.
        metadata: Kept in the file as `METADATA`, JSON.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: Its folder does not exist.
        TypeError: ``example_inputs`` is one tensor.
        ValueError: The example cannot stand for dynamic sizes.
    """
    check_inputs(example_inputs)
    path = check_parent(path)
    shapes = dynamic
    if dynamic is True:
        for t in example_inputs:
            if t.ndim != 4 or min(t.shape[0], *t.shape[2:]) < 2:
                raise ValueError(
                    "dynamic=True needs example inputs (batch, channels, height, width) of batch, height and width "
                    f"≥ 2, got {tuple(t.shape)}: pass a larger example"
                )
        shapes = tuple(dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC) for _ in example_inputs)
    with eval_mode(module), torch.no_grad():
        program = torch.export.export(module, tuple(example_inputs), dynamic_shapes=shapes or None, strict=False)
    about = json.dumps(dict(metadata or {}))
    with replacing(path) as part:
        torch.export.save(program, part, extra_files={METADATA: about})
    return path
