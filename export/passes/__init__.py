"""Rewrites of the exported graphs, one file each, in the order in which they run.

The manifest records each pass by name and version. The version is raised when the pass produces
another graph from the same input.
"""

from covis.export.passes.base import Parameters, Pass, run_passes
from covis.export.passes.fold import Fold
from covis.export.passes.levels import WidenLevels
from covis.export.passes.low_attention import LowAttention
from covis.export.passes.move_casts import MoveCasts
from covis.export.passes.narrow import Narrow
from covis.export.passes.qkv import SplitQkv
from covis.export.passes.quantize import Quantize
from covis.export.passes.rows import SplitRows

__all__ = [
    "Fold",
    "LowAttention",
    "MoveCasts",
    "Narrow",
    "Parameters",
    "Pass",
    "Quantize",
    "SplitQkv",
    "SplitRows",
    "WidenLevels",
    "run_passes",
]
