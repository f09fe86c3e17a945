"""The two ops as ONNX schemas: what an exported node looks like."""

from __future__ import annotations

import onnx
from onnx.defs import OpSchema
from onnxscript import values

from covis.engines.op import DOMAIN, VERSION

FLOAT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
LAYOUT_ATTRIBUTES = {
    "frame_tokens": 1,
    "special_first": 0,
    "special_last": 0,
    "trailing_tokens": 0,
}

_Attribute = OpSchema.Attribute
_Input = OpSchema.FormalParameter


def _integers(defaults: dict[str, int]) -> list[OpSchema.Attribute]:
    return [
        _Attribute(name, onnx.helper.make_attribute(name, value), "")
        for name, value in defaults.items()
    ]


def _default(name: str, value: float | str) -> OpSchema.Attribute:
    return _Attribute(name, onnx.helper.make_attribute(name, value), "")


def _op(schema: OpSchema) -> values.Op:
    return values.Op(values.Opset(DOMAIN, VERSION), schema.name, schema)


BLOCK_SPARSE_ATTENTION = OpSchema(
    "BlockSparseAttention",
    DOMAIN,
    VERSION,
    doc="Attention over the region pairs whose level is above 0.",
    inputs=[
        _Input("Q", "T", "(B, H, S, D)"),
        _Input("K", "T", "(B, H, S, D)"),
        _Input("V", "T", "(B, H, S, D)"),
        _Input("level", "tensor(int8)", "(b, h, Rq, Rk): 0 skipped, 1 low, 2 full precision"),
    ],
    outputs=[_Input("O", "T", "(B, H, S, D)")],
    type_constraints=[("T", list(FLOAT_TYPES), "Tokens")],
    attributes=[
        *_integers({**LAYOUT_ATTRIBUTES, "q_block": 1, "k_block": 1}),
        _default("scale", 0.0),
    ],
)

BLOCK_SELECT = OpSchema(
    "BlockSelect",
    DOMAIN,
    VERSION,
    doc="Level map of the key blocks that hold most of each query block's attention.",
    inputs=[
        _Input("Q", "T", "(B, H, S, D)"),
        _Input("K", "T", "(B, H, S, D)"),
        _Input("pair", "tensor(int8)", "(1, 1, M, M) or (1, 1, 1, 1)"),
        _Input("keep_ratio", "tensor(float)", "()"),
        _Input("cdf", "tensor(float)", "()"),
    ],
    outputs=[_Input("level", "tensor(int8)", "(B, H, Rq, Rk)")],
    type_constraints=[("T", list(FLOAT_TYPES), "Tokens")],
    attributes=[
        *_integers({**LAYOUT_ATTRIBUTES, "q_block": 128, "k_block": 64}),
        _default("pool", "mean"),
    ],
)

block_sparse_attention_op = _op(BLOCK_SPARSE_ATTENTION)
block_select_op = _op(BLOCK_SELECT)
