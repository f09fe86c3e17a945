"""What is wrong with a model or its inputs is told in ONNX Runtime's message, by name and value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.plugins.sessions import model, run, session

Array = NDArray[Any]
SHAPE = (1, 2, 12, 8)
ATTENTION, SELECT = "BlockSparseAttention", "BlockSelect"


def feeds(op: str) -> dict[str, Array]:
    one = np.full((1, 1, 1, 1), 2, np.int8)
    given: dict[str, Array] = {"Q": np.ones(SHAPE, np.float32), "K": np.ones(SHAPE, np.float32)}
    if op == ATTENTION:
        return {**given, "V": np.ones(SHAPE, np.float32), "level": one}
    scalars = {"keep_ratio": np.array(0.5, np.float32), "cdf": np.array(0.5, np.float32)}
    return {**given, "pair": one, **scalars}


BAD_ATTRIBUTES: list[tuple[dict[str, int | float | str], str]] = [
    ({"frame_tokens": 0}, "frame_tokens is 0, must be at least 1"),
    ({"special_first": -1}, "special_first is -1, must be at least 0"),
    ({"special_last": -2}, "special_last is -2, must be at least 0"),
    ({"trailing_tokens": -3}, "trailing_tokens is -3, must be at least 0"),
    ({"q_block": 0}, "q_block is 0, must be at least 1"),
    ({"k_block": -1}, "k_block is -1, must be at least 1"),
    ({"frame_tokens": 4, "special_first": 2, "special_last": 2}, "special_first 2 and"),
]


@pytest.mark.parametrize("op", [ATTENTION, SELECT])
@pytest.mark.parametrize(("attributes", "message"), BAD_ATTRIBUTES)
def test_attributes_out_of_range(
    op: str, attributes: dict[str, int | float | str], message: str
) -> None:
    with pytest.raises(Exception, match=f"covis {op}: attribute.*{message}"):
        session(model(op, attributes))


VALUES: dict[str, Any] = {
    "integer": 3,
    "float": 0.5,
    "string": "mean",
    "integers": [1, 2],
    "floats": [0.5],
    "strings": ["mean"],
    "tensor": helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]),
}


@pytest.mark.parametrize("given", VALUES)
@pytest.mark.parametrize(
    ("op", "name", "right"),
    [(ATTENTION, "q_block", "integer"), (ATTENTION, "scale", "float"),
     (SELECT, "frame_tokens", "integer"), (SELECT, "pool", "string")],
)  # fmt: skip
def test_attributes_of_another_type_are_not_absent(
    op: str, name: str, right: str, given: str
) -> None:
    proto = model(op, {name: VALUES[given]})
    if given == right:
        session(proto)
        return
    with pytest.raises(Exception, match=f"covis {op}: attribute {name} is not an? {right}"):
        session(proto)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_scale_out_of_range(scale: float) -> None:
    with pytest.raises(Exception, match=r"attribute scale is .*must be finite and at least 0"):
        session(model(ATTENTION, {"scale": scale}))


def test_unknown_pool() -> None:
    with pytest.raises(Exception, match="attribute pool is 'median', must be 'mean' or 'max'"):
        session(model(SELECT, {"pool": "median"}))


BAD_INPUTS: list[tuple[str, str, Array, str]] = [
    (ATTENTION, "K", np.ones((1, 2, 11, 8), np.float32), r"K is \(1, 2, 11, 8\), must be"),
    (ATTENTION, "V", np.ones((1, 1, 12, 8), np.float32), r"V is \(1, 1, 12, 8\), must be"),
    (ATTENTION, "level", np.full((2, 1, 1, 1), 2, np.int8), "level has 2 batch .*must be 1 or 1"),
    (ATTENTION, "level", np.full((1, 3, 1, 1), 2, np.int8), "level has 3 heads .*must be 1 or 2"),
    (ATTENTION, "level", np.full((1, 1, 7, 1), 2, np.int8), "level has 7 query regions"),
    (ATTENTION, "level", np.full((1, 1, 1, 0), 2, np.int8), "level has 0 key regions"),
    (ATTENTION, "level", np.full((1, 1, 1, 1), 3, np.int8), "level holds 3 at element 0"),
    (ATTENTION, "level", np.full((1, 1, 1, 1), -1, np.int8), "level holds -1 at element 0"),
    (SELECT, "K", np.ones((1, 2, 12, 4), np.float32), r"K is \(1, 2, 12, 4\)"),
    (SELECT, "pair", np.full((1, 1, 12, 11), 2, np.int8), "pair is 12 x 11"),
    (SELECT, "pair", np.full((2, 1, 1, 1), 2, np.int8), r"pair is \(2, 1, 1, 1\)"),
    (SELECT, "pair", np.full((1, 1, 1, 1), 9, np.int8), "pair holds 9 at element 0"),
    (SELECT, "keep_ratio", np.array(1.5, np.float32), "keep_ratio is 1.5.*, must be from 0 to 1"),
    (SELECT, "cdf", np.array(np.nan, np.float32), "cdf is .*nan, must be from 0 to 1"),
]


@pytest.mark.parametrize(("op", "name", "value", "message"), BAD_INPUTS)
def test_inputs_that_the_contract_forbids(op: str, name: str, value: Array, message: str) -> None:
    with pytest.raises(Exception, match=f"covis {op}: input {message}"):
        run(op, {**feeds(op), name: value})


@pytest.mark.parametrize("op", [ATTENTION, SELECT])
def test_empty_tensors(op: str) -> None:
    empty = {name: np.ones((1, 0, 12, 8), np.float32) for name in ("Q", "K", "V")}
    given = {name: empty.get(name, value) for name, value in feeds(op).items()}
    with pytest.raises(Exception, match=r"input Q is \(1, 0, 12, 8\), no dimension may be empty"):
        run(op, given)


@pytest.mark.parametrize("op", [ATTENTION, SELECT])
def test_tokens_that_do_not_fit_the_layout(op: str) -> None:
    with pytest.raises(Exception, match=r"12 tokens less trailing_tokens 0 .* frame_tokens 5"):
        run(op, feeds(op), {"frame_tokens": 5})
    with pytest.raises(Exception, match="trailing_tokens is 13, more than the sequence's 12"):
        run(op, feeds(op), {"trailing_tokens": 13})


@pytest.mark.parametrize("op", [ATTENTION, SELECT])
def test_wrong_ranks(op: str) -> None:
    given = feeds(op)
    for name in {"Q", "K", "V"} & given.keys():
        given[name] = np.ones((12, 8), np.float32)
    with pytest.raises(Exception, match=r"Q is \(12, 8\)|rank 2|Invalid rank for input"):
        session(model(op, {}, shape=("S", "D"))).run(None, given)


@pytest.mark.parametrize("name", ["Q", "level"])
def test_wrong_types(name: str) -> None:
    proto = model(ATTENTION, {})
    for value in proto.graph.input:
        if value.name == name:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(Exception, match=rf"(?s)tensor\(double\).*{name}|{name}.*tensor\(double\)"):
        session(proto)


def test_mixed_types_are_refused() -> None:
    proto = model(ATTENTION, {})
    proto.graph.node.insert(0, helper.make_node("Cast", ["K"], ["K16"], to=TensorProto.FLOAT16))
    proto.graph.node[1].input[1] = "K16"
    with pytest.raises(Exception, match="BlockSparseAttention"):
        session(proto)


def test_shapes_are_inferred() -> None:
    attention = session(model(ATTENTION, {}, shape=(2, "H", "S", 64)))
    assert attention.get_outputs()[0].shape == [2, "H", "S", 64]
    attributes = {"frame_tokens": 105, "special_first": 5, "q_block": 40, "k_block": 30}
    fixed = session(model(SELECT, attributes, shape=(1, 16, 210, 64)))
    assert fixed.get_outputs()[0].shape == [1, 16, 5, 7]
    dynamic = session(model(SELECT, attributes, shape=("B", 16, "S", 64)))
    names = dynamic.get_outputs()[0].shape
    assert names[:2] == ["B", 16]
    assert names[2] != names[3]
