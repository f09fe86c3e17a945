"""Rewrites of the exported graphs, one a file, in the order they run.

What a pass did is on record in the manifest by its name and version; a version goes up when the
pass makes another graph of the same input.
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
