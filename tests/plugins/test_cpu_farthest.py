"""FarthestFirst in libcovis_ort: what is wrong with its inputs, and the shape of its output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.plugins.sessions import session

Array = NDArray[Any]


def model(similarity: list[int | str | None] | None) -> onnx.ModelProto:
    """A model of the op alone; shapes of inputs other than `similarity` are not declared."""
    kinds = {
        "similarity": (TensorProto.FLOAT, similarity),
        "given": (TensorProto.INT64, None),
        "count": (TensorProto.INT64, None),
    }
    inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    output = helper.make_tensor_value_info("rank", TensorProto.INT32, None)
    node = helper.make_node("FarthestFirst", [*kinds], ["rank"], domain="covis")
    return helper.make_model(
        helper.make_graph([node], "one_op", inputs, [output]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("covis", 1)],
        ir_version=10,
    )


def run(similarity: Array, given: Array, count: Array) -> Array:
    feeds = {"similarity": similarity, "given": given, "count": count}
    rank: Array = np.asarray(session(model(None)).run(None, feeds)[0])
    return rank


@pytest.mark.parametrize(
    ("similarity", "given", "count", "message"),
    [
        ((4, 5), (4,), (), r"similarity is \(4, 5\), must be \(M, M\)"),
        ((4,), (4,), (), r"similarity is \(4\), must be \(M, M\)"),
        ((1, 4, 4), (4,), (), r"similarity is \(1, 4, 4\), must be \(M, M\)"),
        ((0, 0), (0,), (), "similarity has 0 views, must be from 1"),
        ((4, 4), (5,), (), r"given is \(5\), must be \(4\)"),
        ((4, 4), (), (), r"given is \(\), must be \(4\)"),
        ((4, 4), (4, 1), (), r"given is \(4, 1\), must be \(4\)"),
        ((4, 4), (4,), (2,), r"count is \(2\), must be a scalar"),
    ],
)
def test_shapes_that_the_contract_forbids(
    similarity: tuple[int, ...], given: tuple[int, ...], count: tuple[int, ...], message: str
) -> None:
    with pytest.raises(Exception, match=f"covis FarthestFirst: input {message}"):
        run(np.ones(similarity, np.float32), np.full(given, -1), np.full(count, 2))


def test_a_vector_of_one_is_a_scalar() -> None:
    rank = run(np.eye(3, dtype=np.float32), np.full(3, -1), np.array([2]))
    assert rank.tolist() == [0, 1, 3]


def test_another_type_is_refused() -> None:
    proto = model(["M", "M"])
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(Exception, match=r"(?s)float16.*similarity|similarity.*float16"):
        session(proto)


@pytest.mark.parametrize(
    ("similarity", "rank"),
    [(["M", "M"], ["M"]), ([7, 7], [7]), (["M", None], ["M"])],
)
def test_shapes_are_inferred(similarity: list[int | str | None], rank: list[int | str]) -> None:
    assert session(model(similarity)).get_outputs()[0].shape == rank
