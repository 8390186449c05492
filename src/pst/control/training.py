"""Ways of training: k or the bound on the coarse tokens drawn at random, and the gate alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from pst.control.layers import attention_layers, find_gates, inner_model
from pst.functional.checks import check_generator, check_max_tokens, check_share, check_topk
from pst.modules.hooks import NO_BOUND, Before, Draw, DrawMaxTokens, DrawTopk, FreezeNorms


class Handle(ExitStack):
    """Undoes a switch once: when `remove` is called, or at the end of a with block."""

    def __init__(self, undo: Callable[[], None]) -> None:
        super().__init__()
        self.callback(undo)

    def remove(self) -> None:
        """Undo the switch; nothing when called again."""
        self.close()


def stochastic_topk(
    model: nn.Module,
    choices: Sequence[int] = (0, 4, 8, 16),
    share: float = 0.5,
    generator: torch.Generator | None = None,
) -> Handle:
    """Train with a k that is drawn anew for each forward pass of ``model``, one for all of its PST layers.

    Call it on the module that the training loop calls, before training; in eval mode every layer runs with its own
    ``topk``. Copies of the model made meanwhile, and pickles of it, draw for themselves when trained. Ultralytics
    builds the model that it trains anew: call this on ``trainer.model`` in an ``on_train_start`` callback.

    Switch `pst.track_fine_statistics` on as well. A training step normalises the fine keys and values by their own
    batch's statistics; without it, eval mode does so by a mixture of both maps', and what was learnt is spoilt.

    With gradient checkpointing around a PST layer call backward before the next forward pass: the recomputation takes
    the k that was drawn last.

    Args:
        model: Any Module with PST layers inside.
        choices: Values of k, equally likely in the passes that draw.
        share: Of the passes that draw, from 0 to 1; the others run with k = 0.
        generator: On the CPU; None means PyTorch's global one. Not copied with the model.

    Returns:
        Handle that ends it, by `remove` or as a context manager.

    Raises:
        TypeError: ``model`` is not a Module, a choice not an integer, ``share`` no number, ``generator`` no Generator.
        ValueError: ``model`` holds no PST layer, there are no choices, one is negative, or ``share`` is not a share.
    """
    values = _choices(choices, "k, e.g. (0, 4, 8, 16)")
    return _drawn(model, DrawTopk, tuple(check_topk(k) for k in values), share, generator)


def stochastic_max_tokens(
    model: nn.Module,
    choices: Sequence[int | None] = (16, 49, 100, None),
    share: float = 1.0,
    generator: torch.Generator | None = None,
) -> Handle:
    """Train with a bound on the coarse tokens that is drawn anew for each forward pass of ``model``.

    One model then serves every bound (docs/studies.md, "Fewer coarse tokens", says how well). In eval mode every layer
    runs with its own ``max_tokens``. What `stochastic_topk` says of copies, pickles and Ultralytics holds here too, and
    the two may be used together.

    Args:
        model: Any Module with PST layers inside.
        choices: Bounds, equally likely in the passes that draw; None means no bound.
        share: Of the passes that draw, from 0 to 1; the others run with all tokens.
        generator: On the CPU; None means PyTorch's global one. Not copied with the model.

    Returns:
        Handle that ends it, by `remove` or as a context manager.

    Raises:
        TypeError: ``model`` is not a Module, a choice neither an integer nor None, ``share`` no number, ``generator``
            no Generator.
        ValueError: ``model`` holds no PST layer, there are no choices, one is < 1, or ``share`` is not a share.

    Examples:
        >>> pyramid = pst.PSTPyramid((32, 64), 64)
        >>> with pst.stochastic_max_tokens(pyramid, choices=(16, 100, None)):
        ...     maps = pyramid([torch.rand(1, 32, 24, 24), torch.rand(1, 64, 12, 12)])
        >>> maps[0].shape
        torch.Size([1, 64, 24, 24])
    """
    values = [check_max_tokens(bound) for bound in _choices(choices, "bounds, e.g. (16, 100, None)")]
    return _drawn(model, DrawMaxTokens, tuple(NO_BOUND if n is None else n for n in values), share, generator)


def _choices(choices: Sequence[Any], wanted: str) -> Sequence[Any]:
    """``choices``, which are to be some."""
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        raise TypeError(f"choices must be a list or tuple of {wanted}, got {choices!r}")
    if not choices:
        raise ValueError(f"choices must hold at least one of the {wanted}, got none")
    return choices


def _drawn(
    model: nn.Module, kind: type[Draw], choices: tuple[int, ...], share: float, generator: torch.Generator | None
) -> Handle:
    """Register a hook of this kind; the handle removes it and what it drew last."""
    layers = attention_layers(model).values()
    check_generator(generator)
    check_share(share)
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share!r}")
    registered = inner_model(model).register_forward_pre_hook(kind(choices, share, generator))

    def undo() -> None:
        registered.remove()
        for layer in layers:
            setattr(layer, kind.attribute, None)

    return Handle(undo)


def gate_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of the gates of all PST layers, to give to an optimizer.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer, or one without a gate.
    """
    return [p for gate in find_gates(model).values() for p in gate.parameters()]


def freeze_except_gate(model: nn.Module) -> Handle:
    """Let nothing but the gates learn: no other parameter has a gradient, and every BatchNorm stays in eval mode.

    For tuning the gate alone, with k > 0, on a model that was trained with k = 0. A gate of which some parameters were
    frozen before, such as an adapter around it, learns by the others. BatchNorms stay in eval mode in
    every pass, also after ``model.train()``.

    Returns:
        Handle that gives all parameters and BatchNorms back what they had, by `remove` or as a context manager.

    Raises:
        TypeError: ``model`` is not a Module.
        ValueError: ``model`` holds no PST layer, or one without a gate.
    """
    gates = find_gates(model).values()
    others = _frozen(model)
    before = others[0].before if others else _state(model)
    learning = {id(p) for gate in gates for p in _learning(gate)}
    for p in model.parameters():
        p.requires_grad_(id(p) in learning)
    hook = FreezeNorms()
    hook.before = before
    registered = inner_model(model).register_forward_pre_hook(hook)

    def undo() -> None:
        registered.remove()
        if before is None or _frozen(model):  # the last one to go gives back what was before the first
            return
        for p, required in before[0]:
            p.requires_grad_(required)
        for m, mode in before[1]:
            m.training = mode

    return Handle(undo)


def _learning(gate: nn.Module) -> list[nn.Parameter]:
    """Those that are not frozen; all where every one is."""
    return [p for p in gate.parameters() if p.requires_grad] or list(gate.parameters())


def _frozen(model: nn.Module) -> list[FreezeNorms]:
    """The hooks of `freeze_except_gate` calls on this model that are not undone."""
    hooks = inner_model(model)._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, FreezeNorms) and hook.before is not None]


def _state(model: nn.Module) -> Before:
    return [(p, p.requires_grad) for p in model.parameters()], [(m, m.training) for m in model.modules()]
