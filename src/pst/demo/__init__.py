"""The whole story in one command: data, training, evaluation over k and fusions, one report."""

from pst.demo.pipeline import run

__all__ = ["run"]
