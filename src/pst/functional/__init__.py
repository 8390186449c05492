"""Tensor functions: no Module, no configuration."""

from pst.functional.attention import pyramid_sparse_attention
from pst.functional.selection import child_index, mean_logit_scores, parent_index, select_tokens

__all__ = ["child_index", "mean_logit_scores", "parent_index", "pyramid_sparse_attention", "select_tokens"]
