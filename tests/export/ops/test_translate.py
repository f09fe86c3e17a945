"""Exported models keep the ops as nodes, and any runtime can run them through their bodies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from covis.engines.errors import CovisError
from covis.export.ops import (
    TokenLayout,
    block_select,
    block_sparse_attention,
    dense_level,
    farthest_first,
)
from covis.export.ops.functions import functions
from covis.export.ops.schema import BLOCK_SELECT, BLOCK_SPARSE_ATTENTION, FARTHEST_FIRST
from covis.export.ops.translate import attach_functions, translation_table
from tests.vectors.case import Array

LAYOUT = TokenLayout(13, 2, 1)


class Net(nn.Module):
    """Frame attention, then global attention by pairs and by pooled blocks."""

    dense: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.register_buffer("dense", dense_level(), persistent=False)

    def forward(
        self, x: Tensor, pair: Tensor, keep_ratio: Tensor, cdf: Tensor
    ) -> tuple[Tensor, Tensor]:
        frames, tokens, width = x.shape
        split = (frames, tokens, 3, 4, 8)
        q, k, v = self.qkv(x).reshape(split).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + block_sparse_attention(q, k, v, self.dense).transpose(1, 2).reshape(x.shape)
        split = (1, frames * tokens, 3, 4, 8)
        q, k, v = self.qkv(x).reshape(split).permute(2, 0, 3, 1, 4).unbind(0)
        y = block_sparse_attention(q, k, v, pair, layout=LAYOUT, q_block=10, k_block=10)
        level = block_select(q, k, pair, keep_ratio, cdf, layout=LAYOUT, q_block=8, k_block=4)
        y = y + block_sparse_attention(q, k, v, level, layout=LAYOUT, q_block=8, k_block=4)
        return y.transpose(1, 2).reshape(frames, tokens, width), level


def inputs(frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    pair = torch.randint(0, 3, (1, 1, frames, frames), generator=generator).to(torch.int8)
    x = torch.randn(frames, 13, 32, generator=generator)
    return x, pair, torch.tensor(0.5), torch.tensor(0.6)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def exported(net: Net) -> ir.Model:
    program = torch.onnx.export(
        net,
        inputs(3),
        dynamo=True,
        opset_version=20,
        optimize=True,
        verbose=False,
        dynamic_shapes=({0: "M"}, {2: "M", 3: "M"}, None, None),
        custom_translation_table=translation_table(),
    )
    assert program is not None
    return program.model


@pytest.fixture(scope="module")
def model(exported: ir.Model) -> onnx.ModelProto:
    return ir.to_proto(attach_functions(exported.clone()))


def test_the_ops_stay_nodes_with_every_attribute(model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.domain == "covis"]
    assert [node.op_type for node in nodes] == [
        "BlockSparseAttention",
        "BlockSparseAttention",
        "BlockSelect",
        "BlockSparseAttention",
    ]
    for node in nodes:
        schema = BLOCK_SELECT if node.op_type == "BlockSelect" else BLOCK_SPARSE_ATTENTION
        assert {a.name for a in node.attribute} == set(schema.attributes)
    values = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[1].attribute}
    assert values == {**vars(LAYOUT), "q_block": 10, "k_block": 10, "scale": 0.0}


def test_symbolic_shapes_survive(model: onnx.ModelProto) -> None:
    out, level = (v.type.tensor_type.shape.dim for v in model.graph.output)
    assert [d.dim_param or d.dim_value for d in out] == ["M", 13, 32]
    assert [d.dim_value for d in level[:2]] == [1, 4]
    assert all("M" in d.dim_param for d in level[2:])


def test_checker_and_strict_shape_inference(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def _onnxruntime(model: onnx.ModelProto) -> Callable[..., list[Array]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: list(session.run(None, feeds))


def _reference(model: onnx.ModelProto) -> Callable[..., list[Array]]:
    evaluator = ReferenceEvaluator(model)
    return lambda feeds: list(evaluator.run(None, feeds))


@pytest.mark.parametrize("runtime", [_onnxruntime, _reference])
def test_any_number_of_frames(
    net: Net, model: onnx.ModelProto, runtime: Callable[..., Callable[..., list[Array]]]
) -> None:
    run = runtime(model)
    for frames in (1, 2, 3, 5):
        arguments = inputs(frames)
        with torch.no_grad():
            out, level = net(*arguments)
        feeds = {i.name: x.numpy() for i, x in zip(model.graph.input, arguments, strict=True)}
        got_out, got_level = run(feeds)
        np.testing.assert_array_equal(got_level, level.numpy())
        np.testing.assert_allclose(got_out, out.numpy(), atol=2e-6)


def with_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    return ir.to_proto(attach_functions(ir.from_proto(model)))


def test_attaching_twice_is_the_same(model: onnx.ModelProto) -> None:
    assert with_functions(model) == model
    assert [f.name for f in model.functions] == ["BlockSparseAttention", "BlockSelect"]
    onnx.checker.check_model(model, full_check=True)


def test_only_what_is_used_is_attached() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info(
        "y", onnx.TensorProto.FLOAT, [1])])  # fmt: skip
    plain = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    assert not with_functions(plain).functions


SCHEMAS = (BLOCK_SPARSE_ATTENTION, BLOCK_SELECT, FARTHEST_FIRST)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)
def test_body_and_schema_have_one_signature(schema: onnx.defs.OpSchema) -> None:
    (body,) = [f for f in functions() if f.name == schema.name]
    assert list(body.input) == [i.name for i in schema.inputs]
    assert list(body.output) == [o.name for o in schema.outputs]
    defaults = {a.name: onnx.helper.get_attribute_value(a) for a in body.attribute_proto}
    assert defaults == {
        name: onnx.helper.get_attribute_value(a.default_value)
        for name, a in schema.attributes.items()
    }


def test_a_model_on_disk_runs_without_any_library(tmp_path: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for level in (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options.graph_optimization_level = level
        ort.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])


def test_the_body_is_of_the_pool_that_the_nodes_name(model: onnx.ModelProto) -> None:
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    del changed.functions[:]
    (node,) = (n for n in changed.graph.node if n.op_type == "BlockSelect")
    (pool,) = (a for a in node.attribute if a.name == "pool")
    pool.s = b"max"
    bodies = {f.name: f for f in with_functions(changed).functions}
    (select,) = (f for f in functions("max") if f.name == "BlockSelect")
    assert bodies["BlockSelect"].doc_string == select.doc_string
    assert "max" in select.doc_string and set(bodies) == {"BlockSparseAttention", "BlockSelect"}
    other = changed.graph.node.add()
    other.CopyFrom(node)
    other.output[0] = "other"
    next(a for a in other.attribute if a.name == "pool").s = b"mean"
    with pytest.raises(CovisError, match="pool of BlockSelect: is max and mean in one graph"):
        with_functions(changed)
    others = [a for a in other.attribute if a.name != "pool"]
    del other.attribute[:]
    other.attribute.extend(others)  # which is mean
    with pytest.raises(CovisError, match="pool of BlockSelect: is max and mean in one graph"):
        with_functions(changed)


def test_subgraphs_name_no_dimension() -> None:
    # ONNX Runtime takes one name for one size in the whole model, and a model has many such nodes.
    graphs = [a.g for f in functions() for n in f.node for a in n.attribute if a.HasField("g")]
    assert [graph.name for graph in graphs] == ["dense", "sparse", "step_body"]
    ranks = []
    for output in (value for graph in graphs for value in graph.output):
        dims = output.type.tensor_type.shape.dim
        assert all(dim.WhichOneof("value") is None for dim in dims)
        ranks.append(len(dims))
    assert ranks == [4, 4, 0, 1, 1]  # O of both branches; condition, scores and ranks of a step


class Anchors(nn.Module):
    """The views of a traversal of descriptors, for the largest of some budgets."""

    def forward(self, x: Tensor, given: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        rank = farthest_first(x @ x.T, given, budgets.max())
        return rank, rank[None] < budgets[:, None]


@pytest.fixture(scope="module")
def anchors() -> onnx.ModelProto:
    example = (torch.zeros(3, 8), torch.full((3,), -1), torch.tensor([1, 2, 3, 1]))
    program = torch.onnx.export(
        Anchors().eval(),
        example,
        dynamo=True,
        opset_version=20,
        optimize=True,
        verbose=False,
        dynamic_shapes=({0: "M"}, {0: "M"}, {0: "R"}),
        custom_translation_table=translation_table(),
    )
    assert program is not None
    return ir.to_proto(attach_functions(program.model))


def test_a_traversal_is_one_node_of_a_known_shape(anchors: onnx.ModelProto) -> None:
    (node,) = (node for node in anchors.graph.node if node.domain == "covis")
    assert node.op_type == "FarthestFirst" and not node.attribute
    assert [f.name for f in anchors.functions] == ["FarthestFirst"]
    onnx.checker.check_model(anchors, full_check=True)
    bare = onnx.ModelProto.FromString(anchors.SerializeToString())
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(
        bare, check_type=True, strict_mode=True, data_prop=True
    )
    rank, chosen = (v.type.tensor_type.shape.dim for v in found.graph.output)
    assert [d.dim_param for d in rank] == ["M"]
    assert chosen[1].dim_param == "M"


@pytest.mark.parametrize("runtime", [_onnxruntime, _reference])
def test_a_traversal_of_any_number_of_views(
    anchors: onnx.ModelProto, runtime: Callable[..., Callable[..., list[Array]]]
) -> None:
    run = runtime(anchors)
    for views, budgets in ((1, [0]), (2, [1, 2]), (9, [0, 4, 2]), (9, [30])):
        x = torch.randn(views, 8, generator=torch.Generator().manual_seed(views))
        arguments = x, torch.tensor([views - 1, *[-1] * (views - 1)]), torch.tensor(budgets)
        names = (i.name for i in anchors.graph.input)
        feeds = {name: value.numpy() for name, value in zip(names, arguments, strict=True)}
        for got, expected in zip(run(feeds), Anchors()(*arguments), strict=True):
            np.testing.assert_array_equal(got, expected.numpy())
