"""The three ops as ONNX schemas: inputs, outputs, types and attributes of an exported node."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx.defs import OpSchema
from onnxscript import values

from covis.engines.op import (
    ATTENTION,
    ATTENTION_ATTRIBUTES,
    DOMAIN,
    FARTHEST,
    SELECT,
    SELECT_ATTRIBUTES,
    VERSION,
)

FLOAT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")

_Input = OpSchema.FormalParameter
_TOKENS = "(B, H, S, D)"


def _schema(
    name: str,
    doc: str,
    inputs: list[OpSchema.FormalParameter],
    output: OpSchema.FormalParameter,
    attributes: Mapping[str, int | float | str],
) -> OpSchema:
    tokens = any(parameter.type_str == "T" for parameter in inputs)
    return OpSchema(
        name,
        DOMAIN,
        VERSION,
        doc=doc,
        inputs=inputs,
        outputs=[output],
        type_constraints=[("T", list(FLOAT_TYPES), "Tokens")] if tokens else [],
        attributes=[
            OpSchema.Attribute(key, onnx.helper.make_attribute(key, default), "")
            for key, default in attributes.items()
        ],
    )


def _op(schema: OpSchema) -> values.Op:
    return values.Op(values.Opset(DOMAIN, VERSION), schema.name, schema)


BLOCK_SPARSE_ATTENTION = _schema(
    ATTENTION,
    "Attention over the region pairs whose level is above 0.",
    [
        _Input("Q", "T", _TOKENS),
        _Input("K", "T", _TOKENS),
        _Input("V", "T", _TOKENS),
        _Input("level", "tensor(int8)", "(b, h, Rq, Rk): 0 skipped, 1 low, 2 full precision"),
    ],
    _Input("O", "T", _TOKENS),
    ATTENTION_ATTRIBUTES,
)

BLOCK_SELECT = _schema(
    SELECT,
    "Level map of the key blocks that hold most of each query block's attention.",
    [
        _Input("Q", "T", _TOKENS),
        _Input("K", "T", _TOKENS),
        _Input("pair", "tensor(int8)", "(1, 1, M, M) or (1, 1, 1, 1)"),
        _Input("keep_ratio", "tensor(float)", "()"),
        _Input("cdf", "tensor(float)", "()"),
    ],
    _Input("level", "tensor(int8)", "(B, H, Rq, Rk)"),
    SELECT_ATTRIBUTES,
)

FARTHEST_FIRST = _schema(
    FARTHEST,
    "Step at which each view is taken by a farthest-first traversal.",
    [
        _Input("similarity", "tensor(float)", "(M, M)"),
        _Input("given", "tensor(int64)", "(M,): view to take at each step, or -1"),
        _Input("count", "tensor(int64)", "(): number of steps"),
    ],
    _Input("rank", "tensor(int32)", "(M,): step, or M for a view that is not taken"),
    {},
)

block_sparse_attention_op = _op(BLOCK_SPARSE_ATTENTION)
block_select_op = _op(BLOCK_SELECT)
farthest_first_op = _op(FARTHEST_FIRST)
