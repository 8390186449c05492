"""What was selected: recorded inside a with block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from pst.control.layers import attention_layers, sync_copies


@dataclass(frozen=True, eq=False)
class Selection:
    """What one attention layer selected in one forward pass.

    Attributes:
        index: (B, h, k) int64 on the CPU, flat indices into the coarse map, highest score first, −1 in slots that
            "nucleus" left unused; (B, h, G, k) for rules of G blocks of the query map, row by row.
        coarse_size: (Hu, Wu).
        fine_size: (H, W), of the map of the children.

    Examples:
        >>> selection = Selection(torch.tensor([[[5, 2]]]), coarse_size=(2, 4), fine_size=(4, 8))
        >>> divmod(int(selection.index[0, 0, 0]), selection.coarse_size[1])  # row and column of the best token
        (1, 1)
    """

    index: Tensor
    coarse_size: tuple[int, int]
    fine_size: tuple[int, int]


class _Recorder:
    """Collects the selections of one layer and of every deep copy of it, until switched off; pickled as None."""

    def __init__(self, before: Callable[[Tensor, tuple[int, int], tuple[int, int]], None] | None) -> None:
        self.selections: list[Selection] = []
        self.active, self.before = True, before

    def __call__(self, index: Tensor, coarse_size: tuple[int, int], fine_size: tuple[int, int]) -> None:
        if self.active and not index.is_meta:  # a pass on the meta device counts operations and selects nothing
            self.selections.append(Selection(index.detach().cpu(), coarse_size, fine_size))
        if self.before is not None:  # of a with block around this one
            self.before(index, coarse_size, fine_size)

    def __deepcopy__(self, memo: dict[int, object]) -> _Recorder:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


@contextmanager
def record_selection(model: nn.Module) -> Iterator[dict[str, list[Selection]]]:
    """Record which coarse tokens each PST layer selects inside the with block.

    Yields:
        Module name -> one `Selection` for every forward pass with k > 0; layers that ran with k = 0 have none.

    Examples:
        >>> layer = pst.PST(64, 128, 128).eval()
        >>> with pst.use_topk(layer, 8), record_selection(layer) as selected:
        ...     out = layer(torch.randn(1, 64, 16, 16), torch.randn(1, 128, 8, 8))
        >>> selected["blocks.0.attn"][0].index.shape
        torch.Size([1, 2, 8])
    """
    layers = attention_layers(model)
    before = {layer: layer.observer for layer in layers.values()}
    recorders = {name: _Recorder(layer.observer) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.observer = recorders[name]
    sync_copies(model)
    try:
        yield {name: recorder.selections for name, recorder in recorders.items()}
    finally:
        for recorder in recorders.values():
            recorder.active = False
        for layer, observer in before.items():
            layer.observer = observer
        sync_copies(model)
