"""Tensor functions: no Module, no configuration."""

from pst.functional._dispatch import implementation_for
from pst.functional.attention import pyramid_sparse_attention
from pst.functional.grid import child_index, child_means, parent_index
from pst.functional.scores import mass_scores, mean_logit_scores
from pst.functional.selection import select_tokens

__all__ = [
    "child_index",
    "child_means",
    "implementation_for",
    "mass_scores",
    "mean_logit_scores",
    "parent_index",
    "pyramid_sparse_attention",
    "select_tokens",
]
