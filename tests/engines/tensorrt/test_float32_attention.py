"""Float32 attention: expanded to TensorRT's operators without a level map, else refused."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

from covis.cli import run_command
from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError
from covis.engines.graphs.read import load_graph
from covis.engines.op import DOMAIN
from covis.engines.tensorrt.build.options import BuildOptions
from covis.engines.tensorrt.build.requests import refuse_float32_attention, stage_requests
from covis.engines.tensorrt.parser_graph.float32_attention import find_float32_attention
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from tests.places import DEMO


def graph(kind: str = "float", level: str = "2", scale: str = "") -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20, "covis": 1]>
        one ({kind}[1, 2, s, 8] q, {kind}[1, 2, s, 8] k, {kind}[1, 2, s, 8] v,
             int8[1, 1, a, b] map) => ({kind}[1, 2, s, 8] o)
        <int8[1, 1, 1, 1] full = {{{level}}}> {{
          o = covis.BlockSparseAttention <frame_tokens = 1{scale}> (q, k, v, full)
        }}"""
    )
    return model


@pytest.mark.parametrize(("words", "scale"), [("", 1 / math.sqrt(8)), (", scale = 0.7", 0.7)])
def test_the_products_are_the_attention(words: str, scale: float) -> None:
    model = for_tensorrt(graph(scale=words))
    onnx.checker.check_model(model, full_check=True)
    assert not [node for node in model.graph.node if node.domain == DOMAIN]
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((1, 2, 5, 8)).astype(np.float32) for _ in range(3))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (got,) = session.run(None, {"q": q, "k": k, "v": v, "map": np.zeros((1, 1, 1, 1), np.int8)})
    scores = np.exp(scale * np.float64(q) @ np.float64(k).swapaxes(2, 3))
    expected = scores / scores.sum(-1, keepdims=True) @ np.float64(v)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "level", "dense", "mapped"),
    [("float", "2", 1, 0), ("float", "1", 1, 0), ("float", "0", 0, 1), ("float16", "2", 0, 0)],
)
def test_which_nodes_are_wide(kind: str, level: str, dense: int, mapped: int) -> None:
    found = find_float32_attention(ir.from_proto(graph(kind, level)))
    assert (len(found.dense), len(found.mapped)) == (dense, mapped)
    left = [n for n in for_tensorrt(graph(kind, level)).graph.node if n.domain == DOMAIN]
    assert len(left) == 1 - dense
    moving = graph(kind, level)
    moving.graph.node[0].input[3] = "map"
    assert len(find_float32_attention(ir.from_proto(moving)).mapped) == (kind == "float")


def test_types_are_inferred_where_they_are_not_recorded() -> None:
    """Types are inferred through the function bodies, which the parser's copy lacks."""
    model = load_graph(DEMO / "camera.onnx")
    recorded = find_float32_attention(ir.from_proto(model))
    assert len(recorded.dense) == 4 and not recorded.mapped
    del model.graph.value_info[:]
    assert find_float32_attention(ir.from_proto(model)) == recorded


def test_a_map_in_float32_is_refused_before_anything_is_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = open_bundle(DEMO)
    builds = {b.stage: b for b in stage_requests(bundle, BuildOptions(DEMO))}
    with pytest.raises(
        CovisError, match=r"attention in float32 .*no kernel.*--precision"
    ) as caught:
        refuse_float32_attention(tuple(builds.values()))
    assert caught.value.code == 2 and "stage aggregator" in str(caught.value)
    refuse_float32_attention([b for b in builds.values() if not b.stage.startswith("aggregator")])
    assert run_command(["build", str(DEMO)]) == 2
    assert "has no kernel on a GPU" in capsys.readouterr().err
