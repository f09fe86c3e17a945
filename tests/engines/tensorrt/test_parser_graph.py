"""Graph copies for TensorRT's parser: same results, plugins named, weights on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, parser

from covis.engines.graphs.read import external_data, load_graph
from covis.engines.tensorrt.parser_graph.parser_graph import for_onnxruntime_tensorrt, for_tensorrt
from tests.engines.tensorrt.demo_graphs import demo_graph, rewritten
from tests.places import DEMO
from tests.vectors.function_adapter import farthest_model

STAGES = ["encoder", "aggregator", "aggregator_pooled", "camera", "depth", "points", "saliency"]
WITHOUT_MAPS = ["encoder", "camera"]  # the demo is float32, so TensorRT's own operators run these


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@pytest.mark.parametrize("stage", STAGES)
def test_plugins_named_and_functions_gone(stage: str) -> None:
    copy, model = rewritten(stage), demo_graph(stage)
    fresh = load_graph(DEMO / f"{stage}.onnx")  # rewriting has not changed what it reads
    assert model.SerializeToString(deterministic=True) == fresh.SerializeToString(
        deterministic=True
    )
    assert not copy.functions
    op_nodes = [node for node in copy.graph.node if node.domain == "covis"]
    theirs = [] if stage in WITHOUT_MAPS else [n for n in model.graph.node if n.domain == "covis"]
    for node, old in zip(op_nodes, theirs, strict=True):
        naming = {"plugin_version": b"1", "plugin_namespace": b""}
        if node.op_type == "BlockSparseAttention":
            naming["precision"] = b"full"
        assert _attributes(node) == {**_attributes(old), **naming}
    kinds = {node.op_type for node in copy.graph.node}
    assert not {kind for kind in kinds if "Sequence" in kind}
    assert [*external_data(copy)] == [*external_data(model)]


@pytest.mark.parametrize("stage", STAGES)
def test_the_provider_finds_its_domain(stage: str) -> None:
    model = demo_graph(stage)
    copy = for_onnxruntime_tensorrt(model)
    domains = [node.domain for node in copy.graph.node]
    count = 0 if stage in WITHOUT_MAPS else sum(n.domain == "covis" for n in model.graph.node)
    assert domains.count("trt.plugins") == count
    assert "covis" not in domains
    imports = {entry.domain: entry.version for entry in copy.opset_import}
    used = any(node.domain == "covis" for node in model.graph.node)
    assert imports == ({"": 20, "trt.plugins": 1} if used else {"": 20})


def test_the_same_numbers(tmp_path: Path) -> None:
    """Without sequence and plugin ONNX Runtime computes the same, up to the order of sums."""
    shutil.copy(DEMO / "model.safetensors", tmp_path)
    model, copy = demo_graph("camera"), rewritten("camera")
    assert not {"SplitToSequence", "SequenceAt"} & {node.op_type for node in copy.graph.node}
    onnx.save(copy, str(tmp_path / "camera.onnx"))
    onnx.checker.check_model(str(tmp_path / "camera.onnx"))
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    token = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)
    outputs = [
        onnxruntime.InferenceSession(str(path / "camera.onnx")).run(None, {"camera_token": token})
        for path in (DEMO, tmp_path)
    ]
    for expected, got in zip(*outputs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_axes_become_constants() -> None:
    """The parser requires the axes of a reduction as constants, whatever the exporter wrote."""
    for stage in STAGES:
        graph = rewritten(stage).graph
        constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
        constants |= {initializer.name for initializer in graph.initializer}
        reductions = [node for node in graph.node if node.op_type.startswith("Reduce")]
        assert all(node.input[1] in constants for node in reductions if len(node.input) > 1)


def test_a_traversal_becomes_a_plugin_without_its_loop() -> None:
    model = farthest_model()
    assert [function.name for function in model.functions] == ["FarthestFirst"]
    copy = for_tensorrt(model)
    (node,) = copy.graph.node
    assert _attributes(node) == {"plugin_version": b"1", "plugin_namespace": b""}
    assert node.domain == "covis" and not copy.functions
    assert [*node.input] == ["similarity", "given", "count"]


@pytest.mark.parametrize(("most", "expected"), [(1, b"fp8"), (2, b"full")])
def test_lowered_levels_are_computed_in_fp8(most: int, expected: bytes) -> None:
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20, "covis": 1]>
        low (float16[1, 1, 4, 64] x, int8[1, 1, 1, 1] level) => (float16[1, 1, 4, 64] y)
        <int32 most = {{{most}}}> {{
          wide = Cast <to = 6> (level)
          cut = Min (wide, most)
          narrow = Cast <to = 3> (cut)
          y = covis.BlockSparseAttention (x, x, x, narrow)
        }}"""
    )
    (node,) = (n for n in for_tensorrt(model).graph.node if n.domain == "covis")
    assert _attributes(node)["precision"] == expected
    del model.graph.node[:3]
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("narrow", onnx.TensorProto.INT8, [1, 1, 1, 1], [most])
    )
    (node,) = (n for n in for_tensorrt(model).graph.node if n.domain == "covis")
    assert _attributes(node)["precision"] == expected


def test_low_precision_is_asked_for() -> None:
    copy = for_tensorrt(demo_graph("aggregator"), precision="fp8")
    op_nodes = [node for node in copy.graph.node if node.domain == "covis"]
    assert op_nodes and all(_attributes(node)["precision"] == b"fp8" for node in op_nodes)


def _sequence(size: str, places: str = "first = SequenceAt (parts, zero)") -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        cut (float[2, 8] x) => (float[2, n] first) {{
          zero = Constant <value_int = 0> ()
          size = Constant <{size}> ()
          parts = SplitToSequence <axis = -1> (x, size)
          {places}
        }}"""
    )
    return model


@pytest.mark.parametrize(
    "model",
    [
        _sequence("value_ints = [4, 4]"),
        _sequence(
            "value_int = 3", "last = Constant <value_int = -1> () first = SequenceAt (parts, last)"
        ),
        _sequence("value_int = 4", "first = ConcatFromSequence <axis = 0> (parts)"),
    ],
)
def test_other_sequences_are_left_alone(model: onnx.ModelProto) -> None:
    assert for_tensorrt(model) == ir.to_proto(ir.from_proto(model))


def test_short_last_part() -> None:
    model = _sequence(
        "value_int = 3", "two = Constant <value_int = 2> () first = SequenceAt (parts, two)"
    )
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    session = onnxruntime.InferenceSession(for_tensorrt(model).SerializeToString())
    (got,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(got, x[:, 6:])


def test_branches_and_other_functions() -> None:
    """Nodes inside an If are named too; functions of other domains stay."""
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20, "covis": 1, "other": 1]>
        choose (float[1, 1, 4, 64] x, int8[1, 1, 1, 1] level, bool c) => (float[1, 1, 4, 64] y) {
          y = If (c) <
            then_branch = yes () => (float[1, 1, 4, 64] a) {
              a = covis.BlockSparseAttention (x, x, x, level)
            },
            else_branch = no () => (float[1, 1, 4, 64] b) { b = other.Same (x) }
          >
        }
        <domain: "other", opset_import: ["": 20]> Same (x) => (y) { y = Identity (x) }"""
    )
    copy = for_onnxruntime_tensorrt(model)
    branch = copy.graph.node[0].attribute[0].g.node[0]
    assert branch.domain == "trt.plugins" and _attributes(branch)["plugin_namespace"] == b""
    assert [function.name for function in copy.functions] == ["Same"]
