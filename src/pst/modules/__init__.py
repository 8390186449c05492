"""Modules: state, and calls into `pst.functional`."""

from pst.modules.attention import PyramidSparseAttention
from pst.modules.block import PSTBlock
from pst.modules.conv import ConvFactory, ConvNormAct
from pst.modules.fusion import PST
from pst.modules.laterals import Laterals
from pst.modules.pyramid import PSTPyramid
from pst.modules.settings import Settings
from pst.modules.upsampling import DySample

__all__ = [
    "PST",
    "ConvFactory",
    "ConvNormAct",
    "DySample",
    "Laterals",
    "PSTBlock",
    "PSTPyramid",
    "PyramidSparseAttention",
    "Settings",
]
