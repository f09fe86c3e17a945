"""No graph passes int8 or strings to standard operators, because many runtimes lack support."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from covis.engines.graphs.read import load_graph
from covis.engines.op import FARTHEST
from covis.export.models import stages
from covis.export.ops.attributes import POOLS
from covis.export.ops.functions import functions
from covis.export.ops.translate import attach_functions
from covis.export.passes import LowAttention, WidenLevels, run_passes
from covis.export.precision.precision import base_passes
from covis.export.trace import export_graph
from tests.export.level_check import check_levels, check_ports, text_constants
from tests.export.passes.precision_chain import CONFIGS, HEIGHT, SKIPPED, WIDTH, traced
from tests.places import DEMO

STAGES = ["encoder", "aggregator", "aggregator_pooled", "camera", "depth", "points", "saliency"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_shipped_bundle(stage: str) -> None:
    graph = load_graph(DEMO / f"{stage}.onnx")
    check_levels(graph)
    check_ports(graph)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_model_as_exported(config: str) -> None:
    for graph in traced(config).graphs.values():
        whole = ir.to_proto(attach_functions(graph.clone()))
        check_levels(whole)
        check_ports(whole)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_every_pooled_aggregator(config: str) -> None:
    """Takes two minutes: `python -m pytest -m slow tests/export/passes/test_levels.py`."""
    (stage,) = (s for s in stages(traced(config).model, HEIGHT, WIDTH) if s.name == SKIPPED)
    graph = export_graph(stage)
    run_passes(graph, base_passes(stage.scope))
    check_levels(ir.to_proto(attach_functions(graph)))


@pytest.mark.parametrize("config", CONFIGS)
def test_attention_allowed_in_low_precision(config: str) -> None:
    graph = traced(config).graphs["aggregator"].clone()
    run_passes(graph, [LowAttention(lambda layer: False)])
    assert any(node.op_type == "Min" for node in graph.graph)
    check_levels(ir.to_proto(attach_functions(graph)))


@pytest.mark.parametrize("pool", POOLS)
def test_function_bodies(pool: str) -> None:
    """Their int8 inputs are read by a Cast only."""
    for body in functions(pool):
        if body.name == FARTHEST:
            continue  # it reads no levels
        nodes = [node for node in body.node if {"level", "pair"}.intersection(node.input)]
        assert [node.op_type for node in nodes] == ["Cast"]
        assert not text_constants(body.node)


def _maps() -> onnx.ModelProto:
    """Return maps from every source: a port, a constant, a comparison, the selector."""
    layout = "frame_tokens = 1, special_first = 0, special_last = 0, trailing_tokens = 0"
    blocks = f"{layout}, q_block = 1, k_block = 1"
    attention = f"covis.BlockSparseAttention <{blocks}, scale = 0.0>"
    model: onnx.ModelProto = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20, "covis": 1]>
        maps (float[1, 2, 4, 8] x, int8[1, 1, 4, 4] port, float ratio, bool c)
          => (float[1, 2, 4, 8] y, int8[1, 1, 4, 4] lower, int8[1, 2, 4, 4] level, int8[n] threes)
        <int8[1, 1, 1, 1] two = {{2}}, int64[1] twos = {{2}}> {{
          zero = Constant <value = int8 {{0}}> ()
          larger = Greater (port, zero)
          ones = Cast <to = 3> (larger)
          threes = ConstantOfShape <value = int8[1] {{3}}> (twos)
          lower = Where (c, ones, port)
          level = covis.BlockSelect <{blocks}, pool = "max"> (x, x, lower, ratio, ratio)
          cut = Min (level, two)
          a = {attention} (x, x, x, port)
          b = {attention} (x, x, x, two)
          d = {attention} (x, x, x, cut)
          y = Sum (a, b, d)
        }}"""
    )
    return ir.to_proto(attach_functions(ir.from_proto(model)))


def test_every_source_of_a_map() -> None:
    model = _maps()
    narrow = ir.from_proto(model)
    run_passes(narrow, [WidenLevels()])
    wide = ir.to_proto(narrow)
    check_levels(wide)
    assert [*wide.graph.input] == [*model.graph.input]
    assert [o.type for o in wide.graph.output] == [o.type for o in model.graph.output]
    random = np.random.default_rng(0)
    feeds = {
        "x": random.standard_normal((1, 2, 4, 8)).astype(np.float32),
        "port": random.integers(0, 3, (1, 1, 4, 4)).astype(np.int8),
        "ratio": np.array(0.5, np.float32),
    }
    sessions = [onnxruntime.InferenceSession(m.SerializeToString()) for m in (model, wide)]
    for choice in (True, False):
        given = {**feeds, "c": np.array(choice)}
        for expected, got in zip(*(s.run(None, given) for s in sessions), strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
    constants = {t.name: numpy_helper.to_array(t).dtype for t in wide.graph.initializer}
    assert constants["two"] == np.int32
