"""Inferred shapes compared with ONNX Runtime's, and peak memory compared with a sum by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError
from covis.engines.graphs.peak_memory import peak_memory
from covis.engines.graphs.read import load_graph
from covis.engines.graphs.shapes import TensorFacts, tensor_facts
from covis.engines.op import MOST_ELEMENTS
from covis.engines.tensorrt.stage_memory import MemoryEstimate, largest_views
from tests.engines.tensorrt.demo_graphs import rewritten
from tests.places import DEMO

SIZES = {"M": 3, "N": 2, "K": 4, "R": 2}


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {
        value.name: tuple(
            SIZES[d.dim_param] if d.dim_param else d.dim_value
            for d in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
    }


@pytest.mark.parametrize("stage", ["saliency", "encoder", "aggregator_pooled", "camera", "depth"])
def test_every_tensor_is_what_onnxruntime_makes(stage: str) -> None:
    path = DEMO / f"{stage}.onnx"
    plain, parsed = load_graph(path), rewritten(stage)
    facts = tensor_facts(parsed, shapes_of(parsed))
    computed = {name for node in plain.graph.node for name in node.output if name}
    compared = [name for node in parsed.graph.node for name in node.output if name in computed]
    known = {value.name for value in plain.graph.output}
    more = [onnx.ValueInfoProto(name=name) for name in compared if name not in known]
    plain.graph.output.extend(more)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(DEMO)
    )
    session = ort.InferenceSession(plain.SerializeToString(), options)
    inputs = {}
    for value in session.get_inputs():
        kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
                "tensor(int32)": np.int32}[value.type]  # fmt: skip
        inputs[value.name] = np.ones(shapes_of(plain)[value.name], kind)
        if value.name == "patch_order":
            inputs[value.name] = np.arange(inputs[value.name].size)
    arrays = session.run(compared, inputs)
    assert len(compared) > 50
    for name, array in zip(compared, arrays, strict=True):
        if isinstance(array, list):  # a sequence, which the parser's copy does not contain
            continue
        assert facts[name].shape == array.shape, name
        if array.dtype == np.float32:  # the parser's copy widens some small integers
            assert facts[name].dtype == TensorProto.FLOAT, name
            assert facts[name].bytes == array.nbytes, name


def chain() -> onnx.ModelProto:
    """X -> wide (4 times x) -> activation -> narrow -> + x -> y, and a view on the way."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "up"], ["wide"], name="up"),
        node("Relu", ["wide"], ["active"], name="relu"),
        node("Reshape", ["active", "flat"], ["view"], name="view"),
        node("Reshape", ["view", "back"], ["again"], name="again"),
        node("MatMul", ["again", "down"], ["narrow"], name="down"),
        node("MatMul", ["narrow", "square"], ["turned"], name="turn"),
        node("Add", ["turned", "x"], ["y"], name="add"),
    ]
    initializers = [
        helper.make_tensor("up", TensorProto.FLOAT, [8, 32], [0.0] * 256),
        helper.make_tensor("down", TensorProto.FLOAT, [32, 8], [0.0] * 256),
        helper.make_tensor("square", TensorProto.FLOAT, [8, 8], [0.0] * 64),
        helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("back", TensorProto.INT64, [2], [-1, 32]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 8])], initializers,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_traversal_has_a_rank_for_each_view() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20, "covis": 1]>
        g (float[M, M] k, int64[M] given, int64 count) => (bool[M] chosen) {
          rank = covis.FarthestFirst (k, given, count)
          most = Cast <to = 6> (count)
          chosen = Less (rank, most)
        }"""
    )
    facts = tensor_facts(model, {"k": (7, 7), "given": (7,), "count": ()})
    assert facts["rank"] == TensorFacts(TensorProto.INT32, (7,))
    assert facts["chosen"] == TensorFacts(TensorProto.BOOL, (7,))


def test_peak_by_hand() -> None:
    model = chain()
    facts = tensor_facts(model, {"x": (10, 8)})
    assert facts["view"] == TensorFacts(TensorProto.FLOAT, (320,))
    assert facts["again"].shape == (10, 32)
    peak = peak_memory(model, facts)
    # The activation takes over the wide tensor, views cost nothing; x and y are the caller's. At
    # the second product the wide tensor (10 x 32) and its result (10 x 8) are alive, 4 bytes each.
    assert (peak.bytes, peak.node) == (4 * (320 + 80), "down")
    assert peak.tensors == (("active", 1280), ("narrow", 320))


def test_reader_of_a_view_keeps_its_source() -> None:
    model = chain()
    model.graph.node[6].input[1] = "again"  # now read until the end, through two views
    model.graph.node.append(helper.make_node("Identity", ["turned"], ["z"], name="more"))
    facts = {**tensor_facts(chain(), {"x": (10, 8)})}
    facts["z"] = facts["turned"]
    peak = peak_memory(model, facts)
    assert (peak.bytes, peak.node) == (4 * (320 + 80 + 80), "turn")


def test_shape_that_depends_on_data() -> None:
    model = chain()
    model.graph.node.append(helper.make_node("NonZero", ["y"], ["where"]))
    with pytest.raises(CovisError, match=r"the shape of 'where' .NonZero. is not known before"):
        tensor_facts(model, {"x": (10, 8)})


def test_largest_views() -> None:
    compared: list[int] = []

    def needs(views: int) -> int:
        compared.append(views)
        return 100 + 7 * views + views * views // 50

    for budget in (0, 100, 106, 107, 108, 500, 3000, 10**6, 10**9):
        compared.clear()
        most = largest_views(needs, budget, 20_000)
        brute = max((v for v in range(1, 20_001) if 100 + 7 * v + v * v // 50 <= budget), default=0)
        assert most == brute
        assert len(set(compared)) <= 24


def test_limit_of_tensorrt() -> None:
    bundle = open_bundle(DEMO)
    stage = bundle.manifest.stage("camera")
    estimate = MemoryEstimate(bundle)

    def elements(views: int) -> int:
        return estimate.stage(stage, {"M": views}).elements

    most = largest_views(elements, MOST_ELEMENTS, 20_000_000)
    assert elements(most) <= MOST_ELEMENTS < elements(most + 1)
    fixed = estimate.stage(stage, {"M": 8})
    assert fixed.scratch > 0 and fixed.largest and fixed.node
    weights = sum(
        estimate.weights(s) for s in bundle.manifest.stages if s.name != "aggregator_pooled"
    )
    assert 0 < weights <= 1.05 * bundle.weights.size
