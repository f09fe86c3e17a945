"""Every exported graph of the three tiny models, in every precision, as files that stay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import get_args

import onnx

from covis.engines.graphs.read import load_graph, op_attributes
from covis.engines.op import ATTENTION, ATTRIBUTES, DOMAIN
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from covis.export.options import Precision
from covis.export.weights.entries import read_entries
from covis.export.weights.keys import canonical
from covis.export.write import WEIGHTS, save
from tests.export.passes.precision_chain import CONFIGS, narrowed, traced

PRECISIONS: tuple[str, ...] = get_args(Precision)
STAGES = {
    "vggt_a1": ("camera", "depth", "points"),
    "pi3_a1": ("points", "confidence", "camera"),
    "mapanything_a1": ("scale", "dense", "camera"),
}
TRUNK = ("encoder", "saliency", "aggregator", "aggregator_pooled")
_made: list[Path] = []


def all_graphs(*precisions: str) -> Iterator[tuple[str, str, str]]:
    """List (configuration, precision, stage) of every graph in these precisions."""
    for config in CONFIGS:
        for precision in precisions:
            for stage in (*TRUNK, *STAGES[config]):
                yield config, precision, stage


@cache
def bundle(config: str, precision: str) -> Path:
    """Write all graphs of a model in one precision, with their weights, into a folder."""
    folder = Path(mkdtemp(prefix="covis-graphs-"))
    _made.append(folder)
    if precision == "fp32":
        one = traced(config, True)
        shutil.copyfile(one.weights, folder / WEIGHTS)
        entries = read_entries(folder / WEIGHTS)
        keys = canonical(entries, one.model.aliases)
        for stage in one.stages:
            save(stage, one.graphs[stage.name].clone(), folder / WEIGHTS, entries, keys)
    else:
        narrowed(config, folder, precision, pooled=True, fp8_attention=precision == "fp8")
    return folder


def forget() -> None:
    """Remove the folders that `bundle` created."""
    bundle.cache_clear()
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


def sizes(value: onnx.ValueInfoProto, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a graph's input or output, with symbols replaced by their lengths."""
    # torch writes a size that it computed anew in brackets.
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value or lengths[dim.dim_param.strip("()")] for dim in dims)


def profile_shapes(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[int, int, int]]
) -> dict[str, list[tuple[int, ...]]]:
    """Return the shape of every input at the three points of a profile."""
    points = [{symbol: ends[point] for symbol, ends in ranges.items()} for point in range(3)]
    return {value.name: [sizes(value, each) for each in points] for value in model.graph.input}


def plugin_nodes(graph: Path) -> list[onnx.NodeProto]:
    """List the op nodes of the copy for TensorRT's parser, in their order."""
    return [node for node in for_tensorrt(load_graph(graph)).graph.node if node.domain == DOMAIN]


def plugin_text(node: onnx.NodeProto) -> str:
    """Return the text with which the plugin of an op node must describe its fields."""
    values = op_attributes(node)
    names = [*ATTRIBUTES[node.op_type], *(["precision"] if node.op_type == ATTENTION else [])]
    words = (f"{n}={values[n]:f}" if n == "scale" else f"{n}={values[n]}" for n in names)
    return " ".join([node.op_type, *words])
