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
from covis.export.ops import TokenLayout, block_select, block_sparse_attention, dense_level
from covis.export.ops.functions import functions
from covis.export.ops.schema import BLOCK_SELECT, BLOCK_SPARSE_ATTENTION
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


@pytest.mark.parametrize("schema", [BLOCK_SPARSE_ATTENTION, BLOCK_SELECT], ids=lambda s: s.name)
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
    assert [f.name for f in with_functions(changed).functions] == [f.name for f in functions("max")]
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


def test_branches_name_no_dimension() -> None:
    # ONNX Runtime takes one name for one size in the whole model, and a model has many such nodes.
    branches = [a.g for f in functions() for n in f.node for a in n.attribute if a.HasField("g")]
    assert len(branches) == 2
    for branch in branches:
        (output,) = branch.output
        dims = output.type.tensor_type.shape.dim
        assert [d.WhichOneof("value") for d in dims] == [None] * 4
