"""Pyramid sparse attention with its projections."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst.functional.attention import Fusion, Implementation, attend, gather_tokens
from pst.functional.checks import autocasts, check_sizes, check_tensor
from pst.functional.grid import child_means
from pst.functional.selection import Gumbel, SelectionRule
from pst.modules.conv import ConvFactory, ConvNormAct
from pst.modules.fine_statistics import FineStatistics, find_norm
from pst.modules.settings import Options, Settings, check_names
from pst.modules.upsampling import Upsample, build_upsampling, resize

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PyramidSparseAttention(nn.Module):
    """Queries from a finer map attend to a coarser one, then to children of its top-k tokens.

    The steps are those of docs/method.md, "Attention". The same ``kv`` projection serves both levels, so a module
    trained with k = 0 runs with any k. ``settings``, or ``topk``, ``fusion`` and ``selection`` one by one, may be set
    at any time and are not part of the state dict.

    ``q``, ``kv``, ``pe``, ``proj`` and ``gate`` are called, each with a whole map, and never looked into: any Module of
    the same shapes may take their place.

    With `torch.export` the batch and all four map sizes may be dynamic, none tied to another. With k > 0 one program
    then covers every ratio above 1 and coarse maps of more than k tokens, and refuses any other.

    Args:
        dim: C, channels of both maps and of the output.
        num_heads: h; must divide ``dim``.
        conv: Factory of the projections, see `pst.modules.ConvFactory`.
        upsample: How the position term gets the size of the queries' map: "bilinear" (the paper), or "dysample", see
            `pst.modules.upsampling.DySample`.
        **options: ``topk``, ``fusion``, ``selection``, ``similarity``, ``aligned`` and ``max_tokens``, see
            `pst.modules.Settings`.

    Attributes:
        generator: `torch.Generator` for "gumbel", None for PyTorch's global one; neither copied nor pickled.
        impl: "auto", or the implementation to run, see `pst.functional.pyramid_sparse_attention`.
        fine_statistics: BatchNorm statistics of the fine map, see `pst.calibrate`; None is those of the coarse map. In
            the state dict only where there are any, and made where a state dict has some.
        drawn_topk: k of a training step in place of ``topk``, see `pst.stochastic_topk`; neither copied nor pickled.
        drawn_max_tokens: Likewise, see `pst.stochastic_max_tokens`.

    Raises:
        TypeError: An option has the wrong type, or there is none of its name.
        ValueError: ``num_heads`` does not divide ``dim``, or an option has a value that it cannot have.

    Examples:
        >>> attention = pst.PyramidSparseAttention(64, num_heads=2, topk=4, fusion="refine").eval()
        >>> attention(torch.randn(1, 64, 16, 24), torch.randn(1, 64, 8, 12)).shape
        torch.Size([1, 64, 16, 24])
        >>> attention.topk = 0  # coarse attention alone; checked when set
    """

    generator: torch.Generator | None = None
    drawn_topk: int | None = None
    drawn_max_tokens: int | None = None
    observer: Callable[[Tensor, tuple[int, int], tuple[int, int]], None] | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        conv: ConvFactory = ConvNormAct,
        upsample: Upsample = "bilinear",
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads != 0:
            raise ValueError(f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}")
        check_names(options)
        self._settings = Settings(**options)
        head_dim = dim // num_heads
        self.dim, self.num_heads = dim, num_heads
        self.impl: Implementation = "auto"
        self.q = conv(dim, dim, act=False)
        self.kv = conv(dim, 2 * dim, act=False)
        self.pe = conv(dim, dim, 7, groups=dim, act=False)
        self.proj = conv(dim, dim, act=False)
        self.upsampling = build_upsampling(upsample, dim)
        self.gate = nn.Linear(2 * head_dim, head_dim) if self.fusion == "gate" else None
        self.fine_statistics: FineStatistics | None = None
        learned = self._settings.similarity == "cosine"
        self.log_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10))) if learned else None

    @property
    def settings(self) -> Settings:
        """How it attends; a module built without a gate refuses "gate", one built without a learned scale "cosine"."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        if lacking := self.lacks(settings):
            raise ValueError(f"this module {lacking}")
        self._settings = settings

    def lacks(self, settings: Settings) -> str:
        """What settings need that this layer was built without, as the rest of a sentence; "" for nothing."""
        if settings.fusion == "gate" and self.gate is None:
            return 'was built with fusion="refine" and has no gate: build it with fusion="gate"'
        if settings.similarity == "cosine" and self.log_scale is None:
            return 'was built without a scale to learn: build it with similarity="cosine"'
        if settings.aligned != self._settings.aligned:
            return f"was built with aligned={self._settings.aligned}, and stays so: build it with the other"
        return ""

    @property
    def topk(self) -> int:
        """k of `settings`; checked when set."""
        return self._settings.topk

    @topk.setter
    def topk(self, topk: int) -> None:
        self.settings = replace(self._settings, topk=topk)

    @property
    def fusion(self) -> Fusion:
        """Fusion of `settings`; checked when set."""
        return self._settings.fusion

    @fusion.setter
    def fusion(self, fusion: Fusion) -> None:
        self.settings = replace(self._settings, fusion=fusion)

    @property
    def selection(self) -> str | SelectionRule:
        """Selection rule of `settings`; checked when set."""
        return self._settings.selection

    @selection.setter
    def selection(self, selection: str | SelectionRule) -> None:
        self.settings = replace(self._settings, selection=selection)

    def __prepare_scriptable__(self) -> Any:
        """Asked by ``torch.jit.script`` of every module inside a model, before it compiles anything."""
        raise NotImplementedError(
            "torch.jit.script cannot compile PST layers: use torch.jit.trace(model, example), torch.export or "
            "torch.compile"
        )

    def forward(self, x: Tensor, upper: Tensor, fine: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: Map of the queries (B, C, H, W).
            upper: Coarse map (B, C, Hu, Wu), of which the size alone counts with ``aligned``.
            fine: Map whose positions are the children of those of ``upper``, (B, C, Hf, Wf), Hu ≤ Hf, Wu ≤ Wf; of
                another frame or photo, as ``upper`` then is. None is ``x``, the finer level of one pyramid.

        Returns:
            (B, C, H, W), in ``x``'s memory format.

        Raises:
            TypeError: The maps' dtypes differ, outside autocast.
            ValueError: Shapes or devices do not fit.
        """
        source = check_maps(x, upper, fine, self.dim, self.dim)
        settings, heads = self._settings, self.num_heads
        if settings.aligned:
            upper = child_means(source, (upper.shape[2], upper.shape[3]))  # (B, C, Hu, Wu)
        topk, max_tokens = settings.topk, settings.max_tokens
        if self.training:
            topk = topk if self.drawn_topk is None else self.drawn_topk
            max_tokens = max_tokens if self.drawn_max_tokens is None else self.drawn_max_tokens
        (query,) = _split_heads(self.q(x), heads)  # (B, h, N, d)
        key, value = _split_heads(self.kv(upper), heads, 2)  # (B, h, M, d) each
        projected = self._fine_projection(source, topk)  # (B, 2C, Hf, Wf); None with k = 0
        children = None if projected is None else _split_heads(projected, heads, 2)  # (B, h, Hf·Wf, d) each
        scale = query.shape[-1] ** -0.5
        if settings.similarity == "cosine":
            query, scale = _unit(query) * self._scale().to(query.dtype), 1.0
            key, children = _unit(key), None if children is None else (_unit(children[0]), children[1])
        noisy = not self.training and _is_noisy(settings.selection)
        out = attend(  # (B, h, N, d)
            query,
            key,
            value,
            None if children is None else gather_tokens(*children),
            self.gate,
            query_size=(x.shape[2], x.shape[3]),
            fine_size=(source.shape[2], source.shape[3]),
            coarse_size=(upper.shape[2], upper.shape[3]),
            topk=topk,
            fusion=settings.fusion,
            selection="mean" if noisy else settings.selection,
            scale=scale,
            max_tokens=max_tokens,
            generator=self.generator,
            observer=None if self.observer is None else self._observe(source, upper),
            impl=self.impl,
        )
        position = resize(self.upsampling, self._position(value, upper, topk), (x.shape[2], x.shape[3]))
        return self.proj(_like(_to_map(out, x) + position, x))  # (B, C, H, W), as the position term

    def _scale(self) -> Tensor:
        """(h, 1, 1) factor on the cosines, 100 at most (Swin V2, arXiv 2111.09883, section 3.2)."""
        assert self.log_scale is not None
        return self.log_scale.clamp(max=math.log(100)).exp()

    def _fine_projection(self, x: Tensor, topk: int) -> Tensor | None:
        """Keys and values of the fine map, (B, 2C, H, W); None with k = 0, which may update their statistics."""
        statistics = self.fine_statistics
        if topk > 0:
            return self.kv(x) if statistics is None else statistics.project(self.kv, x)
        if statistics is not None and statistics.updates(self.kv):
            with torch.no_grad():
                statistics.project(self.kv, x)
        return None

    def _position(self, value: Tensor, upper: Tensor, topk: int) -> Tensor:
        """The position term, (B, C, Hu, Wu)."""
        position = self.pe(_to_map(value, upper))
        if self.training and self.gate is not None and (topk == 0 or self.fusion != "gate"):
            # Zero, but ties the idle gate to the loss: DistributedDataParallel wants a gradient for every parameter.
            for p in self.gate.parameters():
                if p.requires_grad:
                    position = position + p.flatten()[:0].sum()  # of nothing: 0 · ∞ would be NaN
        return position

    def _observe(self, fine: Tensor, upper: Tensor) -> Callable[[Tensor], None] | None:
        observer = self.observer
        if observer is None:
            return None
        return lambda selected: observer(selected, (upper.shape[2], upper.shape[3]), (fine.shape[2], fine.shape[3]))

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride] the rest is passed on
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """Make the fine statistics that a state dict has and this layer has not."""
        if self.fine_statistics is None and f"{prefix}fine_statistics.mean" in state_dict:
            found = find_norm(self.kv)
            if found is None:
                raise ValueError(
                    f"the state dict has fine statistics for {prefix}kv, which has no BatchNorm any more: load it "
                    "before fusing"
                )
            self.fine_statistics = FineStatistics(found[1])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, object]:
        state = {k: v for k, v in super().__getstate__().items() if k not in _OF_A_RUN}
        return {**state, "_settings": self._settings.plain()}  # plain: a pickle names no class of ours but layers

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_settings" not in state:  # a pickle of version 0.1
            old = {"topk": "_topk", "fusion": "_fusion", "selection": "selection"}
            state = {**state, "_settings": {name: state[key] for name, key in old.items()}}
            state = {key: value for key, value in state.items() if key not in old.values()}
        super().__setstate__(state | {"_settings": Settings().changed(state["_settings"])})
        for name in ("fine_statistics", "upsampling"):  # which older pickles have not
            self._modules.setdefault(name, None)
        self._parameters.setdefault("log_scale", None)

    def extra_repr(self) -> str:
        """Settings shown in ``print(module)``."""
        return (
            f"dim={self.dim}, num_heads={self.num_heads}, "
            f"{', '.join(f'{field.name}={getattr(self.settings, field.name)!r}' for field in fields(self.settings))}"
        )


_OF_A_RUN = ("generator", "drawn_topk", "drawn_max_tokens")


def _is_noisy(selection: str | SelectionRule) -> bool:
    return selection == "gumbel" or isinstance(selection, Gumbel)


def check_pair(x: Tensor, upper: Tensor, channels: int, upper_channels: int, name_of_x: str = "x") -> None:
    """Raise TypeError or ValueError unless ``x`` and ``upper`` are two levels that these channels describe."""
    for name, t, c in ((name_of_x, x, channels), ("upper", upper, upper_channels)):
        check_tensor(name, t)
        if t.ndim != 4 or t.shape[1] != c:
            swapped = x.ndim == upper.ndim == 4 and (x.shape[1], upper.shape[1]) == (upper_channels, channels)
            hint = ": the finer map comes first, then the coarser one" if swapped else ""
            raise ValueError(f"{name} must be (batch, {c}, height, width), got shape {tuple(t.shape)}{hint}")
        if not t.is_floating_point():
            raise TypeError(f"{name} must be of floating point, got {t.dtype}: make it float, and images 0 to 1")
    if x.shape[0] != upper.shape[0]:
        raise ValueError(f"batch size differs: {name_of_x} has {x.shape[0]}, upper {upper.shape[0]}")
    if x.device != upper.device:
        raise ValueError(f"{name_of_x} is on {x.device} but upper on {upper.device}: move them to one device")
    if x.dtype != upper.dtype and not autocasts(x):
        raise TypeError(f"{name_of_x} is {x.dtype} but upper {upper.dtype}: give both one dtype")
    check_sizes(x.shape[2:], upper.shape[2:])


def check_maps(x: Tensor, upper: Tensor, fine: Tensor | None, channels: int, upper_channels: int) -> Tensor:
    """The map of the children, ``fine`` or ``x``; raise TypeError or ValueError unless the maps fit together."""
    if fine is None:
        check_pair(x, upper, channels, upper_channels)
        return x
    check_pair(fine, upper, channels, upper_channels, "fine")
    check_pair(x, x, channels, channels)
    for what, one, other in (("batch size", x.shape[0], fine.shape[0]), ("device", x.device, fine.device)):
        if one != other:
            raise ValueError(f"{what} differs: x has {one}, fine {other}")
    if x.dtype != fine.dtype and not autocasts(x):
        raise TypeError(f"x is {x.dtype} but fine {fine.dtype}: give both one dtype")
    return fine


def _split_heads(projected: Tensor, heads: int, parts: int = 1) -> tuple[Tensor, ...]:
    """(B, parts·C, H, W) -> ``parts`` of (B, h, H·W, d), last dimension contiguous; free from channels_last."""
    tokens = projected.permute(0, 2, 3, 1).contiguous()
    batch, height, width, channels = tokens.shape
    tokens = tokens.reshape(batch, height * width, heads, channels // heads).transpose(1, 2)
    return (tokens,) if parts == 1 else tokens.chunk(parts, -1)


def _unit(tokens: Tensor) -> Tensor:
    """(…, d) at unit length, in float32 at least: squares of float16 overflow."""
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    return F.normalize(wide, dim=-1).to(tokens.dtype)


def _to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, h, N, d) -> (B, h·d, H, W), channels_last, H and W those of ``like``."""
    (batch, heads, _, width), (height, columns) = tokens.shape, like.shape[2:]
    rows = tokens.transpose(1, 2).reshape(batch, height, columns, heads * width)
    # values of one head are half of keys and values, thus strided, and convolutions take such a map for NCHW
    return rows.contiguous().permute(0, 3, 1, 2)


def _like(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the memory format of ``x``, which it shares where nothing has to move."""
    return y.contiguous() if x.is_contiguous() and not y.is_contiguous() else y
