"""BatchNorm statistics of their own for the fine map, which training with k = 0 never saw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from pst.control.layers import attention_layers, eval_mode, inner_model, sync_copies
from pst.control.settings import use_topk
from pst.modules.attention import PyramidSparseAttention
from pst.modules.fine_statistics import FineStatistics, find_norm, running


def calibrate(model: nn.Module, batches: Iterable[Any], *, device: torch.device | str | None = None) -> None:
    """Give the fine map of every PST layer BatchNorm statistics of its own, from unlabelled images.

    A model that is trained with k = 0 normalises the fine keys and values with the statistics of the coarse ones, the
    only ones that training saw. Here the images run through the model in eval mode with k = 0, and exact mean and
    variance of the key/value projection of each layer's fine map are taken over all of them. From then on they
    normalise fine keys and values; the result with k = 0 stays bit for bit the same. They are part of the state dict,
    and loading one that has them calibrates the model that loads it. Calibrating again replaces them.

    Args:
        model: Any Module with PST layers inside, a YOLO object included, not fused.
        batches: Inputs of the model, e.g. image tensors (B, 3, H, W); a tuple is given as several arguments.
        device: Where tensors of a batch are moved to; None leaves them where they are.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer, or one without a BatchNorm to calibrate; there is no batch, or a layer
            saw too little, or NaN or infinity. Then nothing is changed.
    """
    layers = attention_layers(model)
    moments = {name: _Moments(norm) for name, norm in fine_norms(model).items()}
    inner = inner_model(model)
    hooks = [layer.register_forward_pre_hook(moments[name].see, with_kwargs=True) for name, layer in layers.items()]
    try:
        with eval_mode(inner), use_topk(model, 0), torch.no_grad():
            for batch in batches:
                batch = tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, batch)
                inner(*batch) if isinstance(batch, tuple) else inner(batch)
    finally:
        for hook in hooks:
            hook.remove()
    short = [name for name, seen in moments.items() if seen.count < 2]
    if short:
        raise ValueError(f"the batches gave no two positions of a fine map to these layers: {short}; give more images")
    spoilt = [name for name, seen in moments.items() if not seen.finite]
    if spoilt:
        raise ValueError(f"NaN or infinity reached these layers: {spoilt}; look for it in the images and the weights")
    for name, layer in layers.items():
        tracked = layer.fine_statistics is not None and layer.fine_statistics.tracked
        layer.fine_statistics = moments[name].statistics()
        layer.fine_statistics.tracked = tracked
    sync_copies(model)


def uncalibrate(model: nn.Module) -> None:
    """Forget the fine statistics of every PST layer; those of the coarse map serve both maps again.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer.
    """
    for layer in attention_layers(model).values():
        layer.fine_statistics = None
    sync_copies(model)


def track_fine_statistics(model: nn.Module, enabled: bool = True) -> None:
    """Let training update separate BatchNorm statistics of the fine map, with the BatchNorm's own momentum.

    With k = 0 the fine map runs through the key/value convolution for that alone, without a gradient; the result of the
    pass is not changed. With k > 0 fine keys and values are normalised by the batch's own fine statistics, and those
    of the coarse map no longer see the fine one. In eval mode the running statistics serve as those of `calibrate` do.

    They start as copies of the coarse map's. Switch this on before an average of the weights (EMA) is made of the
    model, or for both: the average takes in what both have. Switched off, the statistics stay as they are.

    Args:
        model: Any Module with PST layers inside, not fused.
        enabled: On or off.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer, or one without a BatchNorm.
    """
    layers = attention_layers(model)
    norms = {name: _norm(layer, name) for name, layer in layers.items()} if enabled else {}
    for name, layer in layers.items():
        if layer.fine_statistics is None and enabled:
            layer.fine_statistics = FineStatistics(norms[name])
        if layer.fine_statistics is not None:
            layer.fine_statistics.tracked = enabled
    sync_copies(model)


class _Moments:
    """Mean and variance of what a projection's BatchNorm is given for fine maps, merged exactly in float64."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm = norm
        self.count = 0
        self._mean = self._squares = torch.zeros(norm.num_features, dtype=torch.float64)

    def see(self, layer: PyramidSparseAttention, maps: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Forward pre-hook of an attention layer: take in its fine map."""
        given = dict(zip(("x", "upper", "fine"), maps, strict=False)) | named
        hook = self.norm.register_forward_pre_hook(self._take_in)
        try:
            layer.kv(given["x"] if given.get("fine") is None else given["fine"])
        finally:
            hook.remove()

    def _take_in(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].double().transpose(0, 1).flatten(1).cpu()
        var, mean = torch.var_mean(values, 1, correction=0)
        count = self.count + values.shape[1]
        delta = mean - self._mean
        self._mean = self._mean + delta * (values.shape[1] / count)
        self._squares = self._squares + var * values.shape[1] + delta**2 * (self.count * values.shape[1] / count)
        self.count = count

    @property
    def finite(self) -> bool:
        """Whether mean and variance are."""
        return bool((self._mean + self._squares).isfinite().all())

    def statistics(self) -> FineStatistics:
        """With the unbiased variance, as BatchNorm keeps."""
        like, _ = running(self.norm)
        return FineStatistics(self.norm, self._mean.to(like), (self._squares / (self.count - 1)).to(like))


def fine_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm that each PST layer's fine map goes through, by the layer's name.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: It holds no PST layer, or one without such a BatchNorm.
    """
    return {name: _norm(layer, name) for name, layer in attention_layers(model).items()}


def _norm(layer: PyramidSparseAttention, name: str) -> _BatchNorm:
    found = find_norm(layer.kv)
    if found is None:
        raise ValueError(
            f"{name or type(layer).__name__} has a key/value projection without a BatchNorm with running statistics: "
            "calibrate and track before fusing, and only models with BatchNorm"
        )
    return found[1]
