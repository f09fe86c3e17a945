"""The proof that compares an engine's layers with its graph, and the faults that it reports."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from covis.cli import run_command
from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.errors import CovisError, ExitCode
from covis.engines.graphs.shapes import TensorFacts, tensor_facts
from covis.engines.tensorrt.plans.cache import EngineInfo, PlanCache
from covis.engines.tensorrt.plans.profiles import InputShapes
from covis.engines.tensorrt.plans.record import EngineOptions, PlanInputs, Range
from covis.engines.tensorrt.proof.inspector import prove
from covis.engines.tensorrt.proof.layers import element_type, parse_layers
from covis.engines.tensorrt.proof.report import EngineReport, report
from tests.engines.tensorrt.demo_graphs import facts as demo_facts
from tests.engines.tensorrt.demo_graphs import rewritten
from tests.engines.tensorrt.layers import Layer, as_json, engine_layers
from tests.engines.tensorrt.plan_inputs import TENSORRT, plan_inputs
from tests.places import DEMO

Facts = dict[str, TensorFacts]


def stage(name: str, views: int = 4) -> tuple[onnx.ModelProto, Facts]:
    return rewritten(name), demo_facts(name, views)


def compare(
    model: onnx.ModelProto, facts: Facts, layers: list[Layer], **options: bool
) -> EngineReport:
    return report(model, facts, parse_layers(as_json(layers)), **options)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("aggregator", {"dense", "frame pairs"}),
        ("aggregator_pooled", {"dense", "selected blocks", ""}),
        ("saliency", {""}),
        ("encoder", set()),  # float32 without maps: TensorRT's own operators
    ],
)
def test_engine_that_is_what_the_graph_says(name: str, maps: set[str]) -> None:
    model, facts = stage(name)
    found = compare(model, facts, engine_layers(model, facts))
    assert found.faults == () and found.proven == found.products > 0
    found.refuse_faults("stage")
    op_nodes = [node for node in model.graph.node if node.domain == "covis"]
    assert [row.node for row in found.attention] == [node.name for node in op_nodes]
    assert all(row.plugin and row.precision == "float32" for row in found.attention)
    assert {row.level for row in found.attention} == maps
    kinds = Counter[str]()
    for row in found.classes:
        kinds[row.kind] += row.count
    assert kinds["gemm"] == found.products
    assert sum(kinds[k] for k in kinds if k.startswith("PluginV3 ")) == len(op_nodes)
    gemm = next(row for row in found.classes if row.kind == "gemm")
    assert gemm.precision == "float32" and gemm.kernel.startswith("sm90_xmma_gemm_f32f32")


def test_attention_that_is_not_the_plugin() -> None:
    model, facts = stage("aggregator")
    layers = engine_layers(model, facts)
    first = next(layer for layer in layers if layer["LayerType"] == "PluginV3")
    name = first["Name"]
    first |= {"LayerType": "kgen", "PluginType": "", "Name": "_gemm_mha_v2_myl0_1"}
    found = compare(model, facts, layers)
    assert found.faults == (f"node {name!r} (BlockSparseAttention) is not run by the plugin",)
    with pytest.raises(CovisError, match=r"stage x: the engine is not what was asked for: node"):
        found.refuse_faults("stage x")
    first["Metadata"] = ""  # also if the layer does not name its node
    assert compare(model, facts, layers).faults == found.faults
    others = [layer for layer in layers if layer["LayerType"] != "PluginV3"]
    assert len(compare(model, facts, others).faults) == len(found.attention)


def test_similarities_of_another_type() -> None:
    model, facts = stage("saliency")
    layers = engine_layers(model, facts)
    (layer,) = (layer for layer in layers if layer["LayerType"] == "PluginV3")
    layer["Inputs"][0]["Format/Datatype"] = "Half"
    (fault,) = compare(model, facts, layers).faults
    words = " reads float16 similarities, the graph says float32"
    assert fault == f"node {layer['Name']!r}{words}"


def test_tf32() -> None:
    model, facts = stage("camera")
    layers = engine_layers(model, facts)
    gemm = next(layer for layer in layers if layer["LayerType"] == "gemm")
    gemm["TacticName"] = "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize64x128x16_stage4"
    [fault] = compare(model, facts, layers).faults
    assert "runs a TF32 kernel (sm80_xmma_gemm_f32f32_tf32" in fault
    assert compare(model, facts, layers, tf32=True).faults == ()


def narrow(kind: int, quantized: bool) -> tuple[onnx.ModelProto, Facts]:
    """Two products and an attention in a narrow type; with FP8 the first operand is quantised."""
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.FLOAT8E4M3FN),
        node("DequantizeLinear", ["q", "s"], ["d"], name="dequantize"),
    ] if quantized else []  # fmt: skip
    nodes += [
        node("MatMul", ["d" if quantized else "x", "w"], ["y"], name="first"),
        node("BlockSparseAttention", ["y", "y", "y", "level"], ["o"], name="attention",
             domain="covis"),
        node("MatMul", ["o", "w"], ["z"], name="second"),
    ]  # fmt: skip
    values = [
        helper.make_tensor("w", kind, [16, 16], [0.0] * 256),
        helper.make_tensor("s", kind, [], [1.0]),
        helper.make_tensor("level", TensorProto.INT8, [1, 1, 1, 1], [2]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", kind, [1, 2, 32, 16])],
        [helper.make_tensor_value_info("z", kind, [1, 2, 32, 16])], values,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("covis", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    return model, tensor_facts(model, {"x": (1, 2, 32, 16)})


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_silent_float32(kind: int) -> None:
    """A common fault: the engine of a narrow model runs in float32."""
    model, facts = narrow(kind, False)
    layers = engine_layers(model, facts)
    good = compare(model, facts, layers)
    assert good.faults == () and good.proven == 2
    narrow_name = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}[kind]
    assert good.attention[0].precision == narrow_name
    for layer in layers:
        for tensor in layer["Inputs"]:
            if tensor["Format/Datatype"] in ("Half", "BFloat16"):
                tensor["Format/Datatype"] = "Float"
    assert set(compare(model, facts, layers).faults) == {
        f"node 'attention' reads float32 queries, the graph says {narrow_name}",
        f"product 'first' reads float32, the graph says {narrow_name}",
        f"product 'second' reads float32, the graph says {narrow_name}",
    }


def test_silent_half_instead_of_fp8() -> None:
    model, facts = narrow(TensorProto.FLOAT16, True)
    layers = engine_layers(model, facts)
    assert compare(model, facts, layers).faults == ()
    gemm = next(layer for layer in layers if layer["Name"].startswith("first"))
    assert gemm["Inputs"][0]["Format/Datatype"] == "FP8"
    gemm["Inputs"][0]["Format/Datatype"] = "Half"
    assert compare(model, facts, layers).faults == (
        "product 'first' reads float16, the graph says float8_e4m3fn",
    )


def test_fused_casts_prove_nothing() -> None:
    """A kernel that contains the cast of its operands reads wide numbers for a narrow product."""
    model, facts = narrow(TensorProto.FLOAT16, False)
    cast = helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT16, name="cast")
    model.graph.node.insert(0, cast)
    model.graph.node[1].input[0] = "c"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    facts = tensor_facts(model, {"x": (1, 2, 32, 16)})
    layers = [x for x in engine_layers(model, facts) if x["LayerType"] != "kgen"]
    first = next(layer for layer in layers if layer["Name"].startswith("first"))
    for tensor in first["Inputs"]:
        tensor["Format/Datatype"] = "Float"
    assert compare(model, facts, layers).faults == (
        "product 'first' reads float32, the graph says float16",
    )
    first["Metadata"] += "\x1f[ONNX Layer: cast]"
    found = compare(model, facts, layers)
    assert found.faults == () and (found.proven, found.products) == (1, 2)


def test_products_without_a_layer_are_not_proven() -> None:
    model, facts = narrow(TensorProto.FLOAT16, False)
    layers = [x for x in engine_layers(model, facts) if not x["Name"].startswith("second")]
    found = compare(model, facts, layers)
    assert found.faults == () and (found.proven, found.products) == (1, 2)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Half", "float16"), ("Float", "float32"), ("BFloat16", "bfloat16"),
        ("FP8", "float8_e4m3fn"),
        ("Row major linear FP16 format", "float16"), ("Row major linear FP32", "float32"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"), ("Bool", "bool"),
        ("Row major linear BFloat16 format", "bfloat16"), ("Row major Int8 format", "int8"),
        ("Int64", "int64"), ("Row major linear INT32", "int32"), ("UInt8", "uint8"),
        ("FP8 E4M3", "float8_e4m3fn"), ("FP4", "float4_e2m1fn"), ("INT4", "int4"), ("", "unknown"),
    ],
)  # fmt: skip
def test_words_for_types(words: str, kind: str) -> None:
    assert element_type(words) == kind


def test_layers_as_published() -> None:
    """A layer of TensorRT 10 as its users print it, with two nodes fused into one product."""
    record = {
        "Name": "/encoder/mha/dense/MatMul_myl0_60", "LayerType": "gemm",
        "Inputs": [{"Name": "__mye55065", "Dimensions": [1, 40, 256], "Format/Datatype": "Half"}],
        "Outputs": [{"Name": "__myln_k_arg__bb1_65", "Dimensions": [1, 40, 256],
                     "Format/Datatype": "Half"}],
        "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize32x32x64_stage6",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: /encoder/mha/dense/MatMul][ONNX Layer: node[3]]\x1f"
                    "[ONNX Layer: /encoder/mha/dense/Add]",
    }  # fmt: skip
    [layer] = parse_layers(json.dumps({"Layers": [record], "Bindings": []}))
    assert layer.nodes == ("/encoder/mha/dense/MatMul", "node[3]", "/encoder/mha/dense/Add")
    assert layer.inputs == layer.outputs == ("float16",) and not layer.is_plugin


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not the engine inspector's JSON"), ("{}", "is not the engine inspector's JSON"),
        ("[]", "is not the engine inspector's JSON"), ('{"Layers": 3}', "Layers is no list"),
        ("[" * 100_000, "is not the engine inspector's JSON"),
        ('{"Layers": ["node_1", "node_2"]}', "holds only names of layers; build with"),
    ],
)  # fmt: skip
def test_no_layer_information(text: str, words: str) -> None:
    with pytest.raises(CovisError) as caught:
        parse_layers(text)
    assert words in str(caught.value) and caught.value.code == ExitCode.ENVIRONMENT


def test_odd_fields_are_survived() -> None:
    odd: list[Any] = [{"Name": 3, "Inputs": "x", "Outputs": [1, {}], "Metadata": None}, {}, None, 7]
    layers = parse_layers(json.dumps({"Layers": odd}))
    assert len(layers) == 2 and layers[0].outputs == ("unknown",)


def test_proof_of_a_build() -> None:
    model, facts = narrow(TensorProto.FLOAT16, False)
    shape = {"x": (1, 2, 32, 16)}
    shapes = InputShapes(shape, shape, shape, frozenset())
    layers, messages = engine_layers(model, facts), list[str]()
    text = as_json(layers)
    prove(EngineInfo(text), model, shapes, EngineOptions(), "stage x", messages.append)
    assert messages == [
        f"stage x: {len(layers)} layers; 1 of 1 nodes of ours in the plugin; "
        "2 of 2 products shown in the graph's type"
    ]
    worse = text.replace('"Half"', '"Float"')
    with pytest.raises(CovisError, match="not what was asked for") as caught:
        prove(EngineInfo(worse), model, shapes, EngineOptions(), "stage x", messages.append)
    assert caught.value.code == ExitCode.NUMERICS
    quiet = EngineOptions(profiling_verbosity="layer_names_only")
    prove(EngineInfo(worse), model, shapes, quiet, "stage x", messages.append)
    assert messages[-1] == "stage x: not proven (built with --profilingVerbosity layer_names_only)"


def test_inspect_shows_engines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / PLANS
    bundle = open_bundle(DEMO)
    inputs = demo_inputs(bundle.manifest.files, "aggregator")
    model, facts = stage("aggregator")
    text = as_json(engine_layers(model, facts))
    record, _ = PlanCache(folder).get(
        inputs, lambda write: write(b"plan"), lambda plan: EngineInfo(text, 1)
    )
    assert run_command(["inspect", str(DEMO), "--plans", str(folder), "--layers"]) == 0
    out = capsys.readouterr().out
    nodes = sum(node.domain == "covis" for node in model.graph.node)
    for words in (
        f"plan of aggregator: {record.file}, float32, M 1:4:8, R 1:2:2, K 1:1:1, TensorRT ",
        f", TensorRT {TENSORRT}, CUDA",
        "NVIDIA H200", "PluginV3 BlockSparseAttention", "sm90_xmma_gemm_f32f32_f32f32_f32",
        "BlockSparseAttention, map: frame pairs (layers ", ": the plugin, float32", "selector ",
        "BlockSparseAttention, map: dense: the plugin, float32",
    ):  # fmt: skip
        assert words in out, words
    assert out.count(", plugin, float32") == nodes and "NOT" not in out
    assert record.layers is not None
    layers = folder / record.layers[0]
    layers.write_text(text.replace('"PluginV3"', '"kgen"').replace("PluginType", "Kernel"))
    assert run_command(["inspect", str(DEMO), "--plans", str(folder)]) == 0
    assert "not proven: " in (out := capsys.readouterr().out) and "sha256 differs" in out
    digest = hashlib.sha256(layers.read_bytes()).hexdigest()
    other = record.model_copy(update={"layers": (layers.name, digest)})
    layers.with_name(record.file + ".json").write_text(other.model_dump_json())
    assert run_command(["inspect", str(DEMO), "--plans", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"map: frame pairs (layers {bundle.manifest.sparsity.layers} by default): NOT the" in out
    assert out.count("NOT as asked for: node ") == nodes


def demo_inputs(files: Any, name: str) -> PlanInputs:
    digests = {file.path: file.sha256 for file in files}
    return plan_inputs(
        stage=name,
        graph=digests[f"{name}.onnx"],
        weights=digests["model.safetensors"],
        profile={
            "M": Range(min=1, opt=4, max=8),
            "R": Range(min=1, opt=2, max=2),
            "K": Range(min=1, opt=1, max=1),
        },
    )
