"""Selection rules: which coarse tokens have their children attended.

Letters: B batch, h heads, d head width, N = H·W query tokens, M coarse tokens, k selected tokens, G blocks of queries.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass

import torch
from torch import Tensor

from pst.functional._rule import Selected, SelectionRule, Tokens, highest, ranked
from pst.functional.checks import DTYPES, check_generator, check_integer, check_scale, check_tensor, check_topk
from pst.functional.grid import Size, block_grid, child_index
from pst.functional.scores import (
    block_scores,
    gumbel_scores,
    mass_scores,
    mean_logit_scores,
    nearness_scores,
    random_scores,
    rounded,
)

__all__ = [
    "RULES",
    "Gumbel",
    "Mass",
    "Mean",
    "Nearest",
    "Nucleus",
    "Query",
    "Random",
    "Selected",
    "SelectionRule",
    "Tokens",
    "Window",
    "check_selection",
    "child_index",
    "highest",
    "select_tokens",
]


@dataclass(frozen=True)
class Mean:
    """The rule "mean", the paper: the k largest mean logits over all queries. O((N + M)·d).

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Mean())
    """

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        return Selected(highest(mean_logit_scores(tokens.query, tokens.key, tokens.scale), tokens.topk))


@dataclass(frozen=True)
class Gumbel:
    """The rule "gumbel", the authors' code: `Mean` with Gumbel noise on the scores. For training studies only.

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Gumbel())
    """

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        scores = gumbel_scores(tokens.query, tokens.key, tokens.scale, tokens.generator)
        return Selected(highest(scores, tokens.topk))


@dataclass(frozen=True)
class Mass:
    """The rule "mass": the k largest mean attention probabilities over all queries. Costs three passes of attention.

    Where a query or a key is not finite, all scores may be: tokens are then taken in index order, where the readable
    definition may still tell some apart.

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Mass())
    """

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        return Selected(highest(rounded(mass_scores(tokens.query, tokens.key, tokens.scale)), tokens.topk))


@dataclass(frozen=True)
class Window:
    """The rule "window": each block of queries picks its own k tokens, the largest mean logits over that block.

    Args:
        grid: Blocks along each axis of the query map; as many as there are positions on a smaller map.

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Window(grid=8))
    """

    grid: int = 4

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "grid", check_integer("grid", self.grid, least=1))

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        grid = block_grid(self.grid, tokens.size)
        scores = block_scores(tokens.query, tokens.key, tokens.scale, tokens.size, grid)
        return Selected(highest(scores, tokens.topk), grid=grid)


@dataclass(frozen=True)
class Query:
    """The rule "query": each query picks its own k tokens, those of its highest logits. It forms the N×M logits.

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Query())
    """

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        scores = block_scores(tokens.query, tokens.key, tokens.scale, tokens.size, tokens.size)
        return Selected(highest(scores, tokens.topk), grid=tokens.size)


@dataclass(frozen=True)
class Nearest:
    """The rule "nearest", a control for studies: each block of queries has the k tokens that lie nearest to it.

    Both maps are laid over each other. Distances are those of centres, in coarse positions along each axis.

    Args:
        grid: Blocks along each axis of the query map, as in `Window`.

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Nearest(grid=8))
    """

    grid: int = 4

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "grid", check_integer("grid", self.grid, least=1))

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        grid = block_grid(self.grid, tokens.size)
        scores = nearness_scores(tokens.coarse_size, grid, tokens.key.device)
        return Selected(highest(scores.expand(*tokens.key.shape[:2], -1, -1), tokens.topk), grid=grid)


@dataclass(frozen=True)
class Nucleus:
    """The rule "nucleus": of the k tokens of `Mean`, as many as together reach a share of the mass, at least one.

    The mass is that of the softmax over the mean logits, the attention that the mean query pays: it costs O(M), and
    takes the tokens in `Mean`'s order. The shape stays that of k tokens; slots not used are masked.

    Args:
        p: Share of the mass, 0 < p ≤ 1.

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Nucleus(p=0.5))
    """

    p: float = 0.9

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.p, bool) or not isinstance(self.p, (int, float)) or not 0 < self.p <= 1:
            raise ValueError(f"p must be a share of the mass, above 0 and at most 1, got {self.p!r}")

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        scores = ranked(mean_logit_scores(tokens.query, tokens.key, tokens.scale))
        indices = highest(scores, tokens.topk)
        mass = scores.softmax(-1).gather(-1, indices)
        return Selected(indices, ~(mass.cumsum(-1) - mass >= self.p))  # all, where NaN leaves no share to reach


@dataclass(frozen=True)
class Random:
    """The rule "random", a control for studies: k tokens that depend on seed, head and M alone.

    The same in training and in eval mode, for every image, in every layer of as many tokens, on every device.

    Args:
        seed: Any integer.
        grid: Blocks along each axis of the query map, as in `Window`: each has tokens of its own. None: all queries
            have the same.

    Examples:
        >>> pst.set_selection(pst.PST(64, 128, 64, topk=8), Random(seed=1))
    """

    seed: int = 0
    grid: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "seed", check_integer("seed", self.seed))
        if self.grid is not None:
            object.__setattr__(self, "grid", check_integer("grid", self.grid, least=1))

    def select(self, tokens: Tokens) -> Selected:
        """(B, h, k) indices of the tokens selected, best first; with blocks of queries (B, h, G, k)."""
        grid = None if self.grid is None else block_grid(self.grid, tokens.size)
        blocks = None if grid is None else grid[0] * grid[1]
        return Selected(highest(random_scores(tokens.key, self.seed, blocks), tokens.topk), grid=grid)


# name -> the rule's class, built without arguments when asked for by name
RULES: dict[str, Callable[..., SelectionRule]] = {
    "gumbel": Gumbel,
    "mass": Mass,
    "mean": Mean,
    "nearest": Nearest,
    "nucleus": Nucleus,
    "query": Query,
    "random": Random,
    "window": Window,
}
_DEFAULTS = {name: rule() for name, rule in RULES.items()}
_OWN = tuple(RULES.values())  # PyTorch 2.8 cannot compile a look-up among the values of a dict


def check_selection(selection: str | SelectionRule) -> SelectionRule:
    """The rule that a name in `RULES` stands for, or the rule itself.

    Raises:
        TypeError: It is a class, or an object without a method ``select``.
        ValueError: It names no rule.
    """
    if isinstance(selection, str):
        if selection not in _DEFAULTS:
            near = difflib.get_close_matches(selection, RULES, n=1)
            meant = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"selection must be one of {', '.join(sorted(RULES))}, got {selection!r}{meant}")
        return _DEFAULTS[selection]
    if isinstance(selection, type):
        raise TypeError(f"selection must be a rule, got its class {selection.__name__}: write {selection.__name__}()")
    if not hasattr(selection, "select"):
        raise TypeError(
            f"selection must be one of {', '.join(sorted(RULES))} or a rule with a method select, "
            f"got {selection!r} ({type(selection).__name__})"
        )
    return selection


def selected_by(rule: SelectionRule, tokens: Tokens) -> Selected:
    """What ``rule`` selects.

    Raises:
        TypeError: A rule of the user's gives something else than a `Selected`, or other indices than int64.
        ValueError: Their shape, or that of ``valid``, is another than `Selected` describes.
    """
    selected = rule.select(tokens)
    name = type(rule).__name__
    if type(rule) in _OWN:
        return selected
    if not isinstance(selected, Selected):
        raise TypeError(f"{name} must return a Selected, got {type(selected).__name__}")
    index, valid, grid = selected
    check_tensor(f"what {name} selects", index)
    if index.dtype != torch.int64:
        raise TypeError(f"{name} must select by int64 indices, got {index.dtype}")
    lead = (*tokens.query.shape[:2], *(() if grid is None else (grid[0] * grid[1],)))
    if index.shape[:-1] != lead or index.shape[-1] == 0:
        wanted = ", ".join(str(n) for n in (*lead, "k"))
        raise ValueError(f"{name} must select indices of shape ({wanted}) with k ≥ 1, got {tuple(index.shape)}")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != index.shape):
        got = f"{valid.dtype} of {tuple(valid.shape)}"
        raise ValueError(f"{name} must give valid as bool of shape {tuple(index.shape)}, got {got}")
    return selected


def to_plain(selection: str | SelectionRule) -> object:
    """A rule of this module as (name, settings), so that a pickle names no class of ours; anything else as it is."""
    for name, rule in RULES.items():
        if type(selection) is rule and is_dataclass(selection):
            return name, asdict(selection)
    return selection


def from_plain(plain: object) -> object:
    """The inverse of `to_plain`, of JSON's lists as well.

    Raises:
        TypeError: ``plain`` is a list of something else, or the rule has other settings.
        ValueError: There is no such rule.
    """
    if not isinstance(plain, (tuple, list)) or type(plain) not in (tuple, list):  # a user's rule may be a named tuple
        return plain
    if len(plain) != 2 or not isinstance(plain[0], str) or not isinstance(plain[1], dict):
        raise TypeError(f"a selection rule is a name, or a name and its settings, got {plain!r:.80}")
    check_selection(plain[0])
    return RULES[plain[0]](**plain[1])


def select_tokens(
    query: Tensor,
    key: Tensor,
    topk: int,
    *,
    scale: float,
    selection: str | SelectionRule = "mean",
    size: Size | None = None,
    coarse_size: Size | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Flat indices of the coarse tokens that a rule selects for each image and head.

    Equal scores are taken in index order, on every device. Not differentiable.

    Args:
        query: (B, h, N, d).
        key: (B, h, M, d).
        topk: Number of tokens; more than M means M.
        scale: Factor on every logit.
        selection: A name in `RULES`, or a rule.
        size: (H, W) with N = H·W, which rules for blocks of queries need; None means (1, N).
        coarse_size: (Hu, Wu) with M = Hu·Wu, which "nearest" needs; None means (1, M).
        generator: Source of the random numbers of the rules that draw any.

    Returns:
        (B, h, min(topk, M)) int64, highest score first, −1 in slots that "nucleus" leaves unused; (B, h, G,
        min(topk, M)) where each of G blocks of queries has its own.

    Raises:
        TypeError: ``topk`` or ``scale`` is not a number, a map not a tensor, ``selection`` not a rule.
        ValueError: Shapes or dtypes do not fit, ``topk`` < 1, or a size does not hold N or M positions.
    """
    rule, topk = check_selection(selection), check_topk(topk)
    for name, t in (("query", query), ("key", key)):
        check_tensor(name, t)
        if t.ndim != 4 or t.dtype not in DTYPES or (*t.shape[:2], t.shape[3]) != (*query.shape[:2], query.shape[-1]):
            raise ValueError(
                "query (B, h, N, d) and key (B, h, M, d) must be float, and the same but for N and M, got "
                f"{query.dtype} {tuple(query.shape)} and {key.dtype} {tuple(key.shape)}"
            )
    size = (1, query.shape[2]) if size is None else size
    if topk == 0 or size[0] * size[1] != query.shape[2]:
        raise ValueError(f"topk must be ≥ 1 and size hold N={query.shape[2]} positions, got topk={topk}, size={size}")
    coarse_size = (1, key.shape[2]) if coarse_size is None else coarse_size
    if coarse_size[0] * coarse_size[1] != key.shape[2]:
        raise ValueError(f"coarse_size must hold M={key.shape[2]} positions, got {coarse_size}")
    check_generator(generator)
    scale = check_scale(scale, query.shape[3])
    with torch.no_grad():
        return selected_by(rule, Tokens(query, key, topk, scale, size, coarse_size, generator)).marked()
