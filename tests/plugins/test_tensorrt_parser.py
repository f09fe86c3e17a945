"""TensorRT's own ONNX parser reads every exported graph, without a GPU.

    TENSORRT_ROOT=... python -m pytest -m trt tests/plugins/test_tensorrt_parser.py

Other bundles, of full size too (a graph takes seconds, its weights are not read):

    TENSORRT_ROOT=... COVIS_TRT_BUNDLES=bundle1:bundle2 COVIS_TRT_VIEWS=500 python -m pytest \
        -m trt tests/plugins/test_tensorrt_parser.py -k bundles
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from covis.engines.graph import external_data, load_graph
from covis.export.options import Precision
from tests.plugins.tensorrt_build import build_programs, tensorrt_root, tensorrt_version
from tests.plugins.tensorrt_record import Record, oversized, plugin_fields, record, tensors

pytestmark = pytest.mark.trt

DEMO = Path(__file__).resolve().parents[2] / "covis" / "assets" / "demo"
CONFIGS = ["vggt_a1", "pi3_a1", "mapanything_a1"]
NARROW = [name for name in get_args(Precision) if name != "fp32"]
TRUNK = ("encoder", "aggregator", "aggregator_pooled")
LENGTHS = {"M": 500, "N": 16, "K": 64}  # views, frames of a chunk, probes


@pytest.fixture(scope="module", autouse=True)
def programs() -> Path:
    tensorrt_root()
    folder = build_programs()
    if not (folder / "covis_trt_record").exists():
        pytest.skip("TENSORRT_ROOT has no libnvonnxparser or no NvOnnxParser.h")
    return folder


def check(graph: Path, made: Record) -> None:
    """Parsed whole; each op is the plugin with its fields; nothing a typed build would refuse."""
    assert made["parsed"] and not made["errors"], made["errors"] or made["log"]
    assert not made["issues"]
    assert set(made["unimplemented"]) <= {"Tensor::setDimensionName"}, "the recorder is too small"
    said = [plugin["fields"].partition(" precision=")[0] for plugin in made["plugins"]]
    assert said == plugin_fields(graph)
    kinds = {tensor["type"] for tensor in tensors(made)}
    assert kinds <= {"float32", "float16", "bfloat16", "float8", "int8", "int32", "int64", "bool"}


def check_sizes(made: Record) -> None:
    """Every size follows from the inputs', and no tensor is too large for TensorRT."""
    open_ones = [tensor for tensor in tensors(made) if min(tensor["dims"], default=0) < 0]
    assert not open_ones, open_ones[:5]
    assert not oversized(made), oversized(made)[:10]


@pytest.mark.parametrize("graph", sorted(DEMO.glob("*.onnx")), ids=lambda path: path.stem)
def test_float32(graph: Path, tmp_path: Path) -> None:
    """VGGT as every user has it; attention in float32 that follows a map is parsed, and no format
    of it is offered.
    """
    made = record(graph, tmp_path)
    check(graph, made)
    for plugin in made["plugins"]:
        assert plugin["has_format"] == plugin["fields"].startswith("BlockSelect")


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("config", CONFIGS)
def test_narrow(config: str, precision: str, tmp_path: Path) -> None:
    """Every model in every precision: strongly typed, and the plugin has a kernel for the types."""
    from tests.export.passes.precision_chain import narrowed

    options = {"fp8_attention": True} if precision == "fp8" else {}
    graphs, _ = narrowed(config, tmp_path, precision, **options)
    for stage in graphs:
        graph = tmp_path / f"{stage}.onnx"
        made = record(graph, tmp_path)
        check(graph, made)
        # In the heads too, which are kept in float32: a node without a format fails the build.
        assert all(plugin["has_format"] for plugin in made["plugins"]), stage
        if stage in TRUNK:
            assert made["plugins"]
            allowed = "fp8" if precision == "fp8" else "full"
            ends = {plugin["fields"].rpartition("precision=")[2] for plugin in made["plugins"]}
            assert ends == {allowed}


@pytest.mark.parametrize("stage", ["encoder", "aggregator", "aggregator_pooled", "saliency"])
def test_sizes(stage: str, tmp_path: Path) -> None:
    """At the profile's maximum the recorder knows every size; a far larger one it refuses."""
    graph = DEMO / f"{stage}.onnx"
    check_sizes(record(graph, tmp_path, LENGTHS))
    assert oversized(record(graph, tmp_path, {**LENGTHS, "M": 200_000, "N": 200_000}))


@pytest.mark.parametrize("stage", ["encoder", "aggregator", "depth"])
def test_initializers_are_handed_over(stage: str, tmp_path: Path) -> None:
    """As pointers, which the network then holds as they are; the same network comes out."""
    version = tensorrt_version(tensorrt_root())
    if tuple(map(int, version.split("."))) < (10, 13):
        pytest.skip(f"the parser of {version} takes no pointers")
    graph = DEMO / f"{stage}.onnx"
    made, plain = record(graph, tmp_path, initializers=True), record(graph, tmp_path)
    check(graph, made)
    assert made["layers"] == plain["layers"] and made["plugins"] == plain["plugins"]
    wanted = len([*external_data(load_graph(graph))])
    assert made["in_place"] >= wanted > 0 and plain["in_place"] == 0


def _bundles() -> list[Path]:
    given = os.environ.get("COVIS_TRT_BUNDLES", "").split(os.pathsep)
    return [graph for folder in given if folder for graph in sorted(Path(folder).glob("*.onnx"))]


@pytest.mark.parametrize("graph", _bundles(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_bundles(graph: Path, tmp_path: Path) -> None:
    """Given bundles, at COVIS_TRT_VIEWS views."""
    made = record(graph, tmp_path, {**LENGTHS, "M": int(os.environ.get("COVIS_TRT_VIEWS", "500"))})
    check(graph, made)
    check_sizes(made)
