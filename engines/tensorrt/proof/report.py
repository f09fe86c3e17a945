"""The proof that an engine computes what was requested: its layers compared with its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from covis.engines.bundle.names import PAIR_LEVELS
from covis.engines.dtypes import onnx_name
from covis.engines.errors import CovisError, numerics_error
from covis.engines.graphs.shapes import TensorFacts
from covis.engines.op import ATTENTION, DOMAIN, FARTHEST, SELECT
from covis.engines.tensorrt.proof.layers import Layer

PRODUCTS: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
_NARROWING: Final = frozenset({"Cast", "QuantizeLinear"})
_SAME_VALUES: Final = frozenset({"Reshape", "Flatten", "Transpose", "Identity"})
# Types in which a product may read its operands; int8 and int4 belong to them once quantised.
_OPERANDS: Final = frozenset(
    {"float32", "float16", "bfloat16", "float8_e4m3fn", "float4_e2m1fn", "int8", "int4"}
)


@dataclass(frozen=True)
class ClassRow:
    """Layers of one class that compute in one precision.

    Attributes:
        kind: TensorRT's class of layer.
        precision: Element types that the layers read, e.g. "float16".
        count: Number of such layers.
        kernel: Name of the kernel that most of them run.
    """

    kind: str
    precision: str
    count: int
    kernel: str


@dataclass(frozen=True)
class AttentionRow:
    """A node of the three ops and the layer that runs it.

    Attributes:
        node: Name of the node in the graph.
        op: BlockSparseAttention, BlockSelect or FarthestFirst.
        level: Source of its level map: "dense", "frame pairs" or "selected blocks"; empty for
            ops that choose.
        plugin: The plugin runs the node.
        precision: Element type of its first input in the engine.
    """

    node: str
    op: str
    level: str
    plugin: bool
    precision: str


@dataclass(frozen=True)
class EngineReport:
    """Summary of an engine's layers, and their differences from the graph.

    Attributes:
        classes: Layers by class and precision, most frequent first.
        attention: Every node of the three ops, in the graph's order.
        products: Number of matrix products and convolutions in the graph.
        proven: Number of those that a layer provably runs in the graph's type.
        faults: Differences from the graph; empty for an engine that passes the proof.
    """

    classes: tuple[ClassRow, ...]
    attention: tuple[AttentionRow, ...]
    products: int
    proven: int
    faults: tuple[str, ...]

    def refuse_faults(self, where: str) -> None:
        """Raise an error if the engine differs from its graph.

        Raises:
            CovisError: naming the first fault (exit code 4).
        """
        if self.faults:
            raise refused(where, self.faults)


def refused(where: str, faults: Sequence[str]) -> CovisError:
    """Return the error for an engine that differs from its graph."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return numerics_error(f"the engine is not what was asked for: {faults[0]}{more}", where=where)


def report(
    model: onnx.ModelProto,
    facts: Mapping[str, TensorFacts],
    layers: Sequence[Layer],
    *,
    tf32: bool = False,
) -> EngineReport:
    """Compare an engine's layers with the graph it was built from.

    Every node of the three ops must run in the plugin, in the type of its first input. Every
    product that a layer names must read the graph's type (FP8 where its operands come from
    DequantizeLinear) unless the layer also contains the node that casts to that type. TF32 kernels
    are faults unless TF32 was allowed.

    Args:
        model: Graph that TensorRT's parser read.
        facts: Types and shapes of its tensors, from `tensor_facts`.
        layers: Layers of the engine, from `parse_layers`.
        tf32: The build allowed TF32.
    """
    by_node: dict[str, list[Layer]] = {}
    for layer in layers:
        for node in {*layer.nodes, layer.name}:
            by_node.setdefault(node, []).append(layer)
    producers = {name: node for node in model.graph.node for name in node.output}
    faults: list[str] = []
    attention = tuple(
        _attention(node, facts, by_node, producers, faults)
        for node in model.graph.node
        if node.domain == DOMAIN
    )
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    narrowing = {node.name for node in model.graph.node if node.op_type in _NARROWING}
    proven = sum(_product(n, facts, by_node, producers, narrowing, faults) for n in products)
    if not tf32:
        faults += [
            f"layer {layer.name!r} runs a TF32 kernel ({layer.kernel})"
            for layer in layers
            if "tf32" in layer.kernel.lower()
        ]
    return EngineReport(_classes(layers), attention, len(products), proven, tuple(faults))


def _attention(
    node: onnx.NodeProto,
    facts: Mapping[str, TensorFacts],
    by_node: Mapping[str, list[Layer]],
    producers: Mapping[str, onnx.NodeProto],
    faults: list[str],
) -> AttentionRow:
    runs = [layer for layer in by_node.get(node.name, ()) if layer.is_plugin]
    expected = onnx_name(facts[node.input[0]].dtype)
    found = runs[0].inputs[0] if runs and runs[0].inputs else "unknown"
    if not runs:
        faults.append(f"node {node.name!r} ({node.op_type}) is not run by the plugin")
    elif found != expected:
        first = "similarities" if node.op_type == FARTHEST else "queries"
        faults.append(f"node {node.name!r} reads {found} {first}, the graph says {expected}")
    return AttentionRow(node.name, node.op_type, _level(node, producers), bool(runs), found)


def _level(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Find the source of an attention node's level map, through the nodes that merge maps."""
    if node.op_type != ATTENTION:
        return ""
    kinds: set[str] = set()
    seen: set[str] = set()
    names = [node.input[3]]
    while names:
        name = names.pop()
        producer = producers.get(name)
        if name in seen:
            continue
        seen.add(name)
        if name == PAIR_LEVELS:
            kinds.add("frame pairs")
        elif producer is not None and producer.op_type == SELECT:
            kinds.add("selected blocks")
        elif producer is not None:
            names += [entry for entry in producer.input if entry]
    order = ("selected blocks", "frame pairs")
    return next((kind for kind in order if kind in kinds), "dense")


def _product(
    node: onnx.NodeProto,
    facts: Mapping[str, TensorFacts],
    by_node: Mapping[str, list[Layer]],
    producers: Mapping[str, onnx.NodeProto],
    narrowing: Collection[str],
    faults: list[str],
) -> bool:
    layers = by_node.get(node.name, ())
    reads = {kind for layer in layers for kind in layer.inputs if kind in _OPERANDS}
    expected = _operand_type(node, facts, producers)
    if not reads or expected is None:
        return False
    if expected not in reads:
        if any(name in narrowing for layer in layers for name in layer.nodes):
            return (
                False  # fused with the cast to its type, so the layer's input has the type before
            )
        faults.append(
            f"product {node.name!r} reads {', '.join(sorted(reads))}, the graph says {expected}"
        )
        return False
    return True


def _operand_type(
    node: onnx.NodeProto,
    facts: Mapping[str, TensorFacts],
    producers: Mapping[str, onnx.NodeProto],
) -> str | None:
    """Return the type in which a product must read its operands: FP8 behind DequantizeLinear."""
    producer = producers.get(node.input[0])
    while producer is not None and producer.op_type in _SAME_VALUES:
        producer = producers.get(producer.input[0])
    if producer is not None and producer.op_type == "DequantizeLinear":
        return _float_name(facts[producer.input[0]])
    return _float_name(facts[node.input[0]])


def _float_name(facts: TensorFacts) -> str | None:
    """Return the name of a floating-point type; None for integers."""
    name = onnx_name(facts.dtype)
    return name if "float" in name else None


def _classes(layers: Sequence[Layer]) -> tuple[ClassRow, ...]:
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        precision = ", ".join(sorted({t for t in layer.inputs if t in _OPERANDS})) or "-"
        kind = f"{layer.kind} {layer.plugin}".strip() if layer.is_plugin else layer.kind
        groups.setdefault((kind, precision), []).append(layer)
    rows = [
        ClassRow(kind, precision, len(found), Counter(x.kernel for x in found).most_common(1)[0][0])
        for (kind, precision), found in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.count, row.kind, row.precision)))
