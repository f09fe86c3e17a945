"""The project's two ops on the torch side: eager, exported, and as ONNX schemas and functions."""

from covis.export.ops.attention import DENSE, TokenLayout, block_sparse_attention, dense_level

__all__ = ["DENSE", "TokenLayout", "block_sparse_attention", "dense_level"]
