"""Every op node of the exported graphs, alone in a network: the builder asks the plugin all of it.

A whole graph stops at its first kernel on a machine without a GPU, before most plugins have been
configured. Alone, each is: formats, `configurePlugin` for 1 to 1,000 views, workspace, tactics.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from covis.engines.graphs.read import load_graph
from covis.engines.graphs.shapes import TensorFacts, tensor_facts
from covis.engines.limits import PAIR_MAPS
from covis.engines.op import FARTHEST, SELECT
from covis.engines.system.native import KERNELS_LIBRARY
from covis.engines.tensorrt import module as trt_module
from covis.engines.tensorrt.build.config import builder_settings, network_flags
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from covis.engines.tensorrt.plans.record import EngineOptions
from covis.export.ops.attributes import AttentionAttributes, SelectAttributes
from covis.export.ops.cuda import attention, binding, select
from covis.export.ops.layout import TokenLayout
from tests.export.passes.precision_chain import CONFIGS
from tests.tensorrt.graphs import TRUNK, bundle, plugin_nodes, plugin_text, profile_shapes
from tests.tensorrt.real import has_device, plugin_library, skip_without_builder, start

pytestmark = pytest.mark.trt

RANGES = {"M": (1, 100, 1000), "N": (1, 16, 16), "K": (1, 1, 1), "R": (1, 3, PAIR_MAPS.most)}
CONFIGURED = re.compile(r"covis (.*): configured, workspace (\d+) bytes for (.*)")
_TORCH = {
    TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16, TensorProto.INT8: torch.int8,
}  # fmt: skip
Signature = tuple[str, tuple[tuple[TensorFacts, ...], ...]]  # the plugin's text, inputs by views


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
@pytest.mark.parametrize("config", CONFIGS)
def test_nodes(config: str, precision: str) -> None:
    """Nodes of equal fields, types and shapes are tested once; none is omitted."""
    found = Counter(
        signature
        for stage in TRUNK
        for signature in signatures(bundle(config, precision) / f"{stage}.onnx")
    )
    assert sum(found.values()) == sum(
        len(plugin_nodes(bundle(config, precision) / f"{stage}.onnx")) for stage in TRUNK
    )
    for text, points in found:
        lines, errors = asked(config, precision, (text, points))
        skip_without_builder(errors)
        configured = [match for line in lines if (match := CONFIGURED.search(line))]
        assert configured, (text, errors[:2])
        largest = points[2][0].shape
        fields, workspace, shape = configured[0].groups()
        assert fields == text and shape == f"({', '.join(map(str, largest))})"
        # Other shapes of the profile may want a little more: a map of one region, say.
        expected = wanted_workspace(text, points[2])
        assert expected <= int(workspace) <= 1.1 * expected
        assert (expected > 0) == (text != FARTHEST)
        # What follows is the kernel itself, which needs a GPU; the plugin refused nothing before.
        assert has_device() or not [line for line in errors if "supported formats" in line]


def signatures(graph: Path) -> Iterator[Signature]:
    """Return text and inputs of every op node, at the three points of the profile."""
    model = for_tensorrt(load_graph(graph))
    shapes = profile_shapes(model, RANGES)
    facts = [
        tensor_facts(model, {name: ends[point] for name, ends in shapes.items()})
        for point in range(3)
    ]
    for node in plugin_nodes(graph):
        yield plugin_text(node), tuple(tuple(f[name] for name in node.input) for f in facts)


def wanted_workspace(text: str, inputs: tuple[TensorFacts, ...]) -> int:
    """Return the workspace in bytes that the kernels' host code requires at these shapes."""
    if text == FARTHEST:
        return 0
    words = dict(word.split("=") for word in text.split()[1:])
    layout = TokenLayout(*(int(words[field.name]) for field in fields(TokenLayout)))
    blocks = int(words["q_block"]), int(words["k_block"])
    q, k, *others = (
        torch.empty(each.shape, dtype=_TORCH[each.dtype], device="meta") for each in inputs
    )
    params: ctypes.Structure
    if text.startswith("BlockSelect"):
        name, chosen = "covis_select", SelectAttributes(layout, *blocks, words["pool"])
        level = torch.empty(select.level_shape(q, chosen), device="meta")
        params = select.pack(q, k, *others, level, chosen)
    else:
        name = "covis_attention"
        attributes = AttentionAttributes(layout, *blocks, float(words["scale"]))
        params = attention.pack(q, k, *others, q, attributes)
        params.precision = attention.PRECISIONS[words["precision"]]
    size = ctypes.c_uint64()
    library = binding.load_kernels(plugin_library().with_name(KERNELS_LIBRARY))
    binding.call(library, f"{name}_workspace", ctypes.byref(params), ctypes.byref(size))
    return size.value


@cache
def asked(config: str, precision: str, signature: Signature) -> tuple[list[str], list[str]]:
    """Build one node alone, and return all log lines and the errors."""
    text, points = signature
    node = next(
        node
        for stage in TRUNK
        for node in plugin_nodes(bundle(config, precision) / f"{stage}.onnx")
        if plugin_text(node) == text
    )
    trt, builder, log = start()
    lines: list[str] = []
    trt_module.logger(lambda severity, line: lines.append(line))
    try:
        network = builder.create_network(network_flags(trt))
        parser = trt.OnnxParser(network, log)
        assert parser.parse(alone(node, points).SerializeToString()), log.errors
        profile = builder.create_optimization_profile()
        for place in range(network.num_inputs):
            shapes = [facts[place].shape for facts in points]
            if shapes[0] != shapes[2]:
                profile.set_shape(network.get_input(place).name, *shapes)
        config_ = builder.create_builder_config()
        builder_settings(trt, EngineOptions()).apply(config_)
        config_.add_optimization_profile(profile)
        builder.build_serialized_network(network, config_)
    finally:
        trt_module.logger(lambda severity, line: None)
    return lines, list(log.errors)


def alone(node: onnx.NodeProto, points: tuple[tuple[TensorFacts, ...], ...]) -> onnx.ModelProto:
    """Build a graph of this node; level maps are int32 and cast for it, as in exported graphs."""
    inputs, nodes, names = [], [], []
    for place, (least, _, most) in enumerate(zip(*points, strict=True)):
        name, level = f"in{place}", most.dtype == TensorProto.INT8
        sizes = [
            high if low == high else f"{name}_{axis}"
            for axis, (low, high) in enumerate(zip(least.shape, most.shape, strict=True))
        ]
        kind = TensorProto.INT32 if level else most.dtype
        inputs.append(helper.make_tensor_value_info(name, kind, sizes))
        names.append(f"{name}.int8" if level else name)
        if level:
            nodes.append(helper.make_node("Cast", [name], [names[-1]], to=TensorProto.INT8))
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("input")
    copy.input.extend(names)
    copy.output[0] = "out"
    narrow, whole = node.op_type == SELECT, node.op_type in (SELECT, FARTHEST)
    kind = TensorProto.INT32 if whole else points[0][0].dtype
    shape = [None] * (1 if node.op_type == FARTHEST else 4)
    outputs = [helper.make_tensor_value_info("wide" if narrow else "out", kind, shape)]
    nodes.append(copy)
    if narrow:
        nodes.append(helper.make_node("Cast", ["out"], ["wide"], to=TensorProto.INT32))
    graph = helper.make_graph(nodes, "alone", inputs, outputs)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(node.domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
