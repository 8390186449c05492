"""Modules: state, and calls into `pst.functional`."""

from pst.modules.attention import PyramidSparseAttention
from pst.modules.block import PSTBlock
from pst.modules.conv import ConvFactory, ConvNormAct
from pst.modules.fusion import PST
from pst.modules.pyramid import PSTPyramid
from pst.modules.settings import Settings

__all__ = ["PST", "ConvFactory", "ConvNormAct", "PSTBlock", "PSTPyramid", "PyramidSparseAttention", "Settings"]
