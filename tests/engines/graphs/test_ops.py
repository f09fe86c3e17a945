"""Nodes of the ops in graphs: versions and attributes that the contract does not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode
from covis.engines.graphs.read import load_graph
from tests.engines.mini_bundle import edit_graph
from tests.places import DEMO

SELECT = "aggregator_pooled.onnx"  # has attention and BlockSelect
Change = Callable[[onnx.ModelProto], None]


def first(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op)


def changed(tmp_path: Path, change: Change) -> Path:
    model = onnx.load(str(DEMO / SELECT), load_external_data=False)
    change(model)
    path = tmp_path / SELECT
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, words: str) -> None:
    with pytest.raises(CovisError, match=words) as caught:
        load_graph(path)
    assert caught.value.code == ExitCode.USER and caught.value.where == str(path)
    assert "\n" not in str(caught.value) and "export the bundle again" in caught.value.hint


@pytest.mark.parametrize("stage", sorted(path.name for path in DEMO.glob("*.onnx")))
def test_graphs_of_the_demo_are_accepted(stage: str) -> None:
    load_graph(DEMO / stage)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_other_version_of_the_domain(tmp_path: Path, version: int) -> None:
    def change(model: onnx.ModelProto) -> None:
        opset = next(opset for opset in model.opset_import if opset.domain == "covis")
        opset.version = version

    refused(changed(tmp_path, change), f"follows version {version} of the domain 'covis', this")


@pytest.mark.parametrize(
    ("op", "name", "value", "words"),
    [
        ("BlockSparseAttention", "q_block", 0.5, "'q_block' of node .* is not an integer"),
        ("BlockSparseAttention", "q_block", [4], "'q_block' of node .* is not an integer"),
        ("BlockSparseAttention", "scale", 1, "'scale' of node .* is not a float"),
        ("BlockSelect", "pool", 1, "'pool' of node .* is not a string"),
        ("BlockSelect", "pool", ["mean"], "'pool' of node .* is not a string"),
        ("BlockSelect", "frame_token", 4, "'frame_token' of node .* is unknown"),
        ("BlockSelect", "scale", 1.0, "'scale' of node .* is unknown"),
    ],
)
def test_attributes_of_another_type_or_name(
    tmp_path: Path, op: str, name: str, value: object, words: str
) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = first(model, op)
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    refused(changed(tmp_path, change), words)


def test_a_traversal_has_no_attributes(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(
            helper.make_node("FarthestFirst", ["k", "g", "n"], ["rank"], domain="covis", count=3)
        )

    refused(changed(tmp_path, change), r"'count' of node '' \(FarthestFirst\) is unknown")


def test_an_attribute_given_twice(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = first(model, "BlockSelect")
        node.attribute.extend([helper.make_attribute("q_block", 4)] * 2)

    refused(changed(tmp_path, change), "'q_block' of node .* is given twice")


def test_nodes_of_subgraphs_and_functions(mini_bundle: Path) -> None:
    wrong = helper.make_node(
        "BlockSelect", ["q", "k", "p", "r", "c"], ["l"], domain="covis", q_block=0.5
    )
    inner = helper.make_graph(
        [wrong], "inner", [], [helper.make_tensor_value_info("l", TensorProto.INT8, None)]
    )
    branch = helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    deeper = helper.make_graph([branch], "deeper", [], [])
    outer = helper.make_node("If", ["c"], ["e"], then_branch=deeper, else_branch=deeper)

    def in_function(model: onnx.ModelProto) -> None:
        model.functions.add(name="F", domain="own").node.append(wrong)

    def version_of_function(model: onnx.ModelProto) -> None:
        function = model.functions.add(name="F", domain="own")
        function.opset_import.append(helper.make_opsetid("covis", 7))

    changes: list[tuple[Change, str]] = [
        (lambda model: model.graph.node.append(outer), "'q_block' of node .* is not an integer"),
        (in_function, "'q_block' of node .* is not an integer"),
        (version_of_function, "follows version 7 of the domain 'covis'"),
    ]
    graph = mini_bundle / "encoder.onnx"
    original = graph.read_bytes()
    for change, words in changes:
        graph.write_bytes(original)
        edit_graph(mini_bundle, "encoder", change)
        with pytest.raises(CovisError, match=words) as caught:
            open_bundle(mini_bundle)
        assert caught.value.code == ExitCode.USER
