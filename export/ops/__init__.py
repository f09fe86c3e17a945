"""The project's three ops on the torch side: eager, exported, and as ONNX schemas and functions.

What needs onnxscript is not imported from here: `translate.translation_table()` and
`translate.attach_functions(model)` serve the exporter.
"""

from covis.export.ops.attention import DENSE, block_sparse_attention, dense_level
from covis.export.ops.farthest import farthest_first
from covis.export.ops.fp8 import low_precision
from covis.export.ops.layout import TokenLayout, element_regions
from covis.export.ops.select import block_select

__all__ = [
    "DENSE",
    "TokenLayout",
    "block_select",
    "block_sparse_attention",
    "dense_level",
    "element_regions",
    "farthest_first",
    "low_precision",
]
