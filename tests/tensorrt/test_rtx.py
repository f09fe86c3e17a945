"""NVIDIA's compiler makes a plan of every stage, on the CPU: TensorRT-RTX, from PyPI.

    make trt

TensorRT-RTX builds plans for GPUs that are not there. Its networks take no plugins, so a graph with
ops is compiled with their function bodies, as any runtime may run it; a stage whose parser's copy
has no op of ours left is compiled in that form too.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

from covis.engines.graphs.read import load_graph
from covis.engines.limits import PAIR_MAPS
from covis.engines.op import DOMAIN
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from tests.tensorrt.graphs import all_graphs, bundle, profile_shapes

pytestmark = pytest.mark.trt

RANGES = {"M": (1, 12, 1000), "N": (1, 4, 16), "K": (1, 1, 64), "R": (1, 3, PAIR_MAPS.most)}
GRAPHS = [*all_graphs("fp32", "fp16", "bf16")]


@pytest.mark.parametrize(("config", "precision", "stage"), GRAPHS)
def test_function_bodies(config: str, precision: str, stage: str) -> None:
    """As exported: what every runtime without our kernels sees."""
    graph = bundle(config, precision) / f"{stage}.onnx"
    assert compiled(load_graph(graph), graph) > 0


@pytest.mark.parametrize(("config", "precision", "stage"), GRAPHS)
def test_parser_copy(config: str, precision: str, stage: str) -> None:
    """As `covis build` hands it over, where no plugin is left in it."""
    graph = bundle(config, precision) / f"{stage}.onnx"
    copy = for_tensorrt(load_graph(graph))
    if any(node.domain == DOMAIN for node in copy.graph.node):
        pytest.skip("TensorRT-RTX takes no plugins; test_networks.py shows this one to TensorRT")
    assert compiled(copy, graph) > 0


def test_no_plugins() -> None:
    """Fails once a version accepts them, because the whole bundle can then be compiled here."""
    trt, _, _ = rtx()
    assert not [name for name in dir(trt.INetworkDefinition) if "plugin" in name]


def compiled(model: onnx.ModelProto, graph: Path) -> int:
    """Return the size of the plan that TensorRT-RTX builds, in bytes.

    Args:
        model: to compile.
        graph: where it stands, beside its weights.
    """
    trt, builder, log = rtx()
    log.errors.clear()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    done = parser.parse(model.SerializeToString(), str(graph))
    assert done, [parser.get_error(i).desc()[:300] for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    for name, ends in profile_shapes(model, RANGES).items():
        if ends[0] != ends[2]:
            profile.set_shape(name, *ends)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.errors[:3]
    return int(plan.nbytes)


@cache
def rtx() -> tuple[Any, Any, Any]:
    """Return the module, a builder, and a logger that stores errors; skip if it is missing."""
    try:
        trt = importlib.import_module("tensorrt_rtx_bindings")
    except ImportError as error:
        pytest.skip(f"TensorRT-RTX cannot be imported ({error})")

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(text[:400])

    log = Log()
    return trt, trt.Builder(log), log
