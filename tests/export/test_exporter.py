"""Contents of an exported bundle: nodes, weights in their file, small graphs, verification."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.manifest import Manifest
from covis.engines.graphs.read import external_data, load_graph
from covis.export.weights.entries import read_entries
from tests.export.level_check import check_levels
from tests.places import ROOT


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Path:
    """The tiny VGGT, verified after its export, as `covis export` does."""
    return tiny_bundle


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def attention_nodes(path: Path, kind: str = "BlockSparseAttention") -> list[onnx.NodeProto]:
    return [n for n in load_graph(path).graph.node if n.domain == "covis" and n.op_type == kind]


def test_every_attention_is_a_node_of_the_op(bundle: Path, manifest: Manifest) -> None:
    config = manifest.model.config
    count = {s.name: len(attention_nodes(bundle / s.graph)) for s in manifest.stages}
    assert count["encoder"] == config["dino_depth"]
    assert count["aggregator"] == count["aggregator_pooled"] == 2 * config["depth"]
    assert count["camera"] == 4 * config["camera_trunk_depth"]  # four rounds of refinement
    assert count["saliency"] == count["depth"] == count["points"] == 0
    pooled = attention_nodes(bundle / "aggregator_pooled.onnx", "BlockSelect")
    assert len(pooled) == config["depth"]
    for stage in manifest.stages:
        kinds = {node.op_type for node in load_graph(bundle / stage.graph).graph.node}
        assert not kinds & {"Softmax"} or stage.name.startswith("aggregator"), stage.name


def test_frame_attention_takes_the_dense_constant(bundle: Path, manifest: Manifest) -> None:
    graph = load_graph(bundle / "aggregator.onnx").graph
    nodes = attention_nodes(bundle / "aggregator.onnx")
    layouts = [{a.name: a.i for a in node.attribute} for node in nodes]
    patches = manifest.patches
    frame, over_views = layouts[::2], layouts[1::2]
    assert all(layout["q_block"] == 1 and layout["frame_tokens"] == 1 for layout in frame)
    assert all(
        (x["q_block"], x["k_block"], x["special_first"], x["frame_tokens"])
        == (patches, patches, 5, patches + 5)
        for x in over_views
    )
    cast_of = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    constants = {value.name for value in graph.initializer}
    assert all(cast_of[node.input[3]] in constants for node in nodes[::2])


def test_initializers_are_byte_ranges_of_the_weights_file(bundle: Path, manifest: Manifest) -> None:
    entries = read_entries(bundle / "model.safetensors")
    seen = set()
    for stage in manifest.stages:
        for tensor in external_data(load_graph(bundle / stage.graph)):
            entry = entries[tensor.tensor]
            assert (tensor.offset, tensor.length) == (entry.offset, entry.length)
            assert tensor.location == "model.safetensors"
            seen.add(tensor.tensor)
    dead = {"aggregator.patch_embed.mask_token"}
    assert set(entries) - seen == dead


def test_the_weights_file_is_the_original_byte_for_byte(bundle: Path, manifest: Manifest) -> None:
    graphs = sum(file.size for file in manifest.files if file.path.endswith(".onnx"))
    assert graphs < 20_000_000
    assert manifest.weights.dtype == "float32"
    assert "/" not in manifest.weights.source, "no path of the exporting machine in a bundle"


def test_no_trace_of_the_exporting_machine(bundle: Path) -> None:
    here = str(ROOT).encode()
    for path in bundle.iterdir():
        assert here not in path.read_bytes(), path.name


def test_every_output_was_checked_at_two_view_counts(manifest: Manifest) -> None:
    checked = {(c.stage, c.output, c.views) for c in manifest.checks}
    expected = {
        (s.name, t.name, views) for s in manifest.stages for t in s.outputs for views in (1, 2)
    }
    assert checked == expected
    assert all(check.passed for check in manifest.checks)


def test_graphs_are_valid_onnx(bundle: Path, manifest: Manifest) -> None:
    for stage in manifest.stages:
        model = load_graph(bundle / stage.graph)
        onnx.checker.check_model(str(bundle / stage.graph))
        assert [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")] == [20]
        names = {f.name for f in model.functions if f.domain == "covis"}
        assert names == {n.op_type for n in model.graph.node if n.domain == "covis"}
        assert [i.name for i in model.graph.input] == [t.name for t in stage.inputs]


def test_no_operator_touches_int8_or_text(bundle: Path, manifest: Manifest) -> None:
    for stage in manifest.stages:
        check_levels(load_graph(bundle / stage.graph))


def test_manifest_holds_what_the_runtime_needs(bundle: Path, manifest: Manifest) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    assert raw["model"]["name"] == "vggt"
    assert raw["weights"]["licence"]
    assert manifest.model.reference_view
    assert manifest.model.global_heads == manifest.model.config["num_heads"]
