"""The shipped bundle as TensorRT's parser reads it, each graph rewritten once a process."""

from __future__ import annotations

from functools import cache

import onnx

from covis.engines.graphs.read import load_graph
from covis.engines.graphs.shapes import TensorFacts, tensor_facts
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from tests.places import DEMO


@cache
def demo_graph(stage: str) -> onnx.ModelProto:
    """The stage's graph as it ships; read it only."""
    return load_graph(DEMO / f"{stage}.onnx")


@cache
def rewritten(stage: str) -> onnx.ModelProto:
    """The parser's copy of the stage's graph; read it only."""
    return for_tensorrt(demo_graph(stage))


@cache
def facts(stage: str, views: int, probes: int = 1) -> dict[str, TensorFacts]:
    """What is known of every tensor of `rewritten(stage)` at that many views; read it only."""
    sizes = {"M": views, "N": views, "K": probes, "R": 2}
    model = rewritten(stage)
    shapes = {
        value.name: tuple(
            sizes[d.dim_param] if d.dim_param else d.dim_value
            for d in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
    }
    return tensor_facts(model, shapes)
