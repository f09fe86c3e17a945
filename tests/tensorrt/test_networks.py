"""TensorRT's parser, typing and optimiser take every exported graph.

    make trt

Other bundles, of full size too (their weights are not read):

    COVIS_TRT_BUNDLES=bundle1:bundle2 PYTHONPATH=.venv/tensorrt \
        python -m pytest -m trt tests/tensorrt/test_networks.py -k bundles
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from covis.engines.bundle.verified import verified_onnx
from covis.engines.errors import CovisError
from covis.engines.graphs.read import load_graph
from covis.engines.limits import PAIR_MAPS
from covis.engines.tensorrt.build import engine as builder
from covis.engines.tensorrt.build.engine import EngineRequest, build_engine
from covis.engines.tensorrt.plans.profiles import InputShapes
from covis.engines.tensorrt.plans.record import EngineOptions
from tests.tensorrt.graphs import (
    TRUNK,
    all_graphs,
    bundle,
    plugin_nodes,
    plugin_text,
    profile_shapes,
    sizes,
)
from tests.tensorrt.real import (
    has_device,
    parsed,
    skip_without_builder,
    start,
    stopped_at_the_device,
)

pytestmark = pytest.mark.trt

VIEWS = (1, 100, 1000)  # a profile's ends, and what it is tuned for
RANGES = {"M": VIEWS, "N": (1, 16, 16), "K": (1, 1, 64), "R": (1, 3, PAIR_MAPS.most)}
LIMIT = 2**31  # elements of a tensor, from which TensorRT refuses most layers
KINDS = {TensorProto.FLOAT: "FLOAT", TensorProto.INT32: "INT32"}  # of the stages' outputs
TYPES = {"FLOAT", "HALF", "BF16", "FP8", "INT8", "INT32", "INT64", "BOOL"}


@pytest.mark.parametrize(("config", "precision", "stage"), [*all_graphs("fp16", "bf16", "fp8")])
def test_graph(config: str, precision: str, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model in every narrow precision, for 1 to 1,000 views."""
    graph = bundle(config, precision) / f"{stage}.onnx"
    check_plugins(graph)
    check_sizes(graph)
    check_build(graph, monkeypatch)
    if stage in TRUNK and stage != "saliency":
        texts = [plugin_text(node) for node in plugin_nodes(graph)]
        attention = [text for text in texts if text.startswith("BlockSparseAttention")]
        allowed = "precision=fp8" if precision == "fp8" else "precision=full"
        assert attention and all(text.endswith(allowed) for text in attention)


def test_float32_that_follows_a_map_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is parsed, and the build names the first op whose formats the plugin lacks."""
    graph = bundle("vggt_a1", "fp32") / "aggregator.onnx"
    check_plugins(graph)
    texts = build_errors(graph, monkeypatch)
    assert "BlockSparseAttention" in texts[0] and "could not find any supported formats" in texts[0]


def _given() -> list[Path]:
    folders = os.environ.get("COVIS_TRT_BUNDLES", "").split(os.pathsep)
    return [graph for folder in folders if folder for graph in sorted(Path(folder).glob("*.onnx"))]


@pytest.mark.parametrize("graph", _given(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_bundles(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_plugins(graph)
    check_sizes(graph)
    check_build(graph, monkeypatch)


def check_plugins(graph: Path) -> None:
    """Each op becomes the plugin with its fields, and every tensor has the type of the graph."""
    with ExitStack() as mappings:
        network = parsed(graph, mappings)
        trt, _, log = start()
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        texts = []
        for layer in layers:
            if layer.type == trt.LayerType.PLUGIN_V3:
                layer.__class__ = trt.IPluginV3Layer  # the bindings' way to the layer's own class
                building = layer.plugin.get_capability_interface(trt.PluginCapabilityType.BUILD)
                texts.append(building.metadata_string)
        assert texts == [plugin_text(node) for node in plugin_nodes(graph)]
        kinds = {tensor.dtype.name for tensor in _outputs(layers)}
        assert kinds <= TYPES and not log.errors, (kinds, log.errors)


def check_sizes(graph: Path) -> None:
    """At the largest number of views every size is known, and none exceeds TensorRT's limit."""
    with ExitStack() as mappings:
        network = parsed(graph, mappings)
        most = {name: ends[2] for name, ends in profile_shapes(load_graph(graph), RANGES).items()}
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            tensor.shape = most[tensor.name]
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        shapes = {tensor.name: tuple(tensor.shape) for tensor in _outputs(layers)}
        unknown = {name: shape for name, shape in shapes.items() if min(shape, default=0) < 0}
        assert not unknown, [*unknown.items()][:5]
        large = {name: shape for name, shape in shapes.items() if math.prod(shape) >= LIMIT}
        assert not large, [*large.items()][:5]
        longest = {symbol: ends[2] for symbol, ends in RANGES.items()}
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        result = {out.name: (out.dtype.name, tuple(out.shape)) for out in outputs}
        assert result == {
            value.name: (KINDS[value.type.tensor_type.elem_type], sizes(value, longest))
            for value in load_graph(graph).graph.output
        }


def check_build(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`covis build` gets as far as this machine allows."""
    stopped_at_the_device(build_errors(graph, monkeypatch))


def build_errors(graph: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return TensorRT's errors of a build; none if it wrote a plan."""
    _, _, log = start()
    if not has_device():
        monkeypatch.setattr(builder, "use_gpu", lambda device: None)
    ends = profile_shapes(load_graph(graph), RANGES)
    shapes = InputShapes(
        *({name: ends[name][end] for name in ends} for end in range(3)),
        dynamic=frozenset(name for name, (low, _, high) in ends.items() if low != high),
    )
    plan: list[bytes] = []
    try:
        build_engine(EngineRequest(verified_onnx(graph), shapes, EngineOptions()), plan.append)
    except CovisError as error:
        assert log.errors, error
        skip_without_builder(log.errors)
        return list(log.errors)
    assert sum(map(len, plan)) > 0
    return []


def _outputs(layers: list[Any]) -> list[Any]:
    return [layer.get_output(i) for layer in layers for i in range(layer.num_outputs)]
