"""Mix two versions of a graph: some layers from the reference, the others from the candidate.

Both graphs come from the same export, so their tensors have the same names. They differ in types,
in the storage of weights, and in nodes that a pass has inserted. A layer is identified by the
official names of its weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from covis.engines.errors import user_error

PROLOGUE: Final = ""  # nodes that depend on no weight: each side keeps its own
CANDIDATE: Final = "candidate/"  # prefix of the location of the candidate's external weights
_SUBGRAPHS: Final = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_COARSER: Final = "find the stage alone, without --by-layer"


def layer_of(weight: str) -> str:
    """Return the layer that an initializer belongs to, by its official name.

    The layer is the name up to the first number: "aggregator.frame_blocks.3.attn.qkv.weight"
    belongs to "aggregator.frame_blocks.3". Without a number it is the first three names of the
    module, or, directly below the model's root, the weight's own name. Constants that the exporter
    lifted out of the code belong to no layer.
    """
    words = weight.split(".")
    if len(words) < 2 or words[-1].startswith("lifted_tensor"):
        return PROLOGUE
    number = next((i for i, word in enumerate(words) if word.isdigit()), None)
    if number is not None:
        return ".".join(words[: number + 1])
    return ".".join(words[:-1][:3]) if len(words) > 2 else weight


@dataclass(frozen=True)
class LayeredGraph:
    """A graph whose tensors are sorted into layers.

    Attributes:
        model: The graph, with the element type of each tensor where it is known.
        layer: Layer of every node output, by name, in the order of the nodes.
    """

    model: ir.Model
    layer: dict[str, str]

    def dtypes(self) -> dict[str, ir.DataType]:
        """Element types of the tensors that nodes compute, where known (sequences have none)."""
        values = (value for node in self.model.graph for value in node.outputs)
        return {value.name or "": value.dtype for value in values if value.dtype is not None}


def layered(model: onnx.ModelProto) -> LayeredGraph:
    """Assign the node outputs of a graph to layers.

    A node that reads weights belongs to their layer, and so do the nodes that only prepare weights
    (casts, transpositions). Any other node belongs to the layer of its latest predecessor.

    Raises:
        CovisError: a node contains a subgraph.
    """
    graph = ir.from_proto(model)
    if any(value.dtype is None for node in graph.graph for value in node.outputs):
        graph = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    weights = {value: layer_of(name) for name, value in graph.graph.initializers.items()}
    place: dict[ir.Value, int] = {}  # index of the node that computes a tensor
    layers: list[str] = []
    for index, node in enumerate(graph.graph):
        if any(a.type in _SUBGRAPHS for a in node.attributes.values()):
            raise user_error("holds a graph of its own", where=f"node {node.name}", hint=_COARSER)
        inputs = [value for value in node.inputs if value is not None]
        own = [weights[value] for value in inputs if weights.get(value)]
        if inputs and all(value in weights for value in inputs):
            weights.update(dict.fromkeys(node.outputs, own[0] if own else PROLOGUE))
        if not own:
            before = sorted((place[value] for value in inputs if value in place), reverse=True)
            own = [layers[number] for number in before if layers[number]]
        layers.append(own[0] if own else PROLOGUE)
        place.update(dict.fromkeys(node.outputs, index))
    return LayeredGraph(graph, {v.name or "": layers[i] for v, i in place.items()})


def common_layers(reference: LayeredGraph, candidate: LayeredGraph) -> tuple[str, ...]:
    """List the layers that can be taken from either graph, in the reference's order."""
    common = _common(reference, candidate)
    found = (layer for name, layer in reference.layer.items() if name in common)
    return tuple(dict.fromkeys(layer for layer in found if layer != PROLOGUE))


def _common(reference: LayeredGraph, candidate: LayeredGraph) -> frozenset[str]:
    """Find the tensors at which the graphs can be joined: both produce them, of known type."""
    return frozenset(reference.dtypes().keys() & candidate.dtypes().keys())


def mix(
    reference: LayeredGraph, candidate: LayeredGraph, reference_layers: Collection[str]
) -> onnx.ModelProto:
    """Build a graph with some layers of the reference and all others of the candidate.

    The graphs are joined at the tensors that both produce, with a cast if the types differ. A
    tensor that only one of them produces (a cast that a pass has inserted) comes with its reader.

    Args:
        reference: Graph that provides `reference_layers`.
        candidate: Graph that provides all other layers.
        reference_layers: Names of layers, from `common_layers`.

    Returns:
        The mixture. External weights of the reference keep their location; the candidate's location
        is prefixed with "candidate/", so the caller must supply those when it loads the graph.
    """
    sides = (reference.model.clone(), candidate.model.clone())
    computed = [_computed(model.graph) for model in sides]
    model = _joined(*sides)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def redirect(source: ir.Value, target: ir.Value) -> None:
        """Let the nodes that read `target` read `source` instead, in the type of `target`."""
        if source.dtype != target.dtype and target.dtype is not None:
            key = source, target.dtype
            if key not in casts:
                casts[key] = _cast(model.graph, *key)
            source = casts[key]
        ir.convenience.replace_all_uses_with(target, source, replace_graph_outputs=True)

    for name in _common(reference, candidate):
        if (layer := reference.layer[name]) != PROLOGUE:
            ours, theirs = (side[name] for side in computed)
            redirect(*((ours, theirs) if layer in reference_layers else (theirs, ours)))
    for ours, theirs in zip(sides[0].graph.inputs, sides[1].graph.inputs, strict=True):
        redirect(ours, theirs)
    _name_outputs(model.graph, reference.model.graph)
    RemoveUnusedNodesPass()(model)
    model.graph.sort()
    for index, node in enumerate(model.graph):
        node.name = f"{index} {node.name}"  # names of nodes must differ, where there are any
    return ir.to_proto(model)


def _computed(graph: ir.Graph) -> dict[str, ir.Value]:
    return {value.name: value for node in graph for value in node.outputs if value.name}


def _joined(reference: ir.Model, candidate: ir.Model) -> ir.Model:
    """Move the candidate's nodes and initializers into the reference's graph, under new names."""
    graph, other = reference.graph, candidate.graph
    for prefix, side in (("reference/", graph), (CANDIDATE, other)):
        for value in [*side.initializers.values(), *_computed(side).values()]:
            value.name = f"{prefix}{value.name}"
        for node in side:
            node.name = f"{prefix}{node.name}"
    nodes, initializers = list(other), list(other.initializers.values())
    other.outputs.clear()
    other.remove(nodes)
    other.initializers.clear()
    graph.extend(nodes)
    for value in initializers:
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _elsewhere(value.const_value)
        graph.register_initializer(value)
    for key, function in candidate.functions.items():
        reference.functions.setdefault(key, function)
    return reference


def _elsewhere(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        f"{CANDIDATE}{tensor.location}",
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=f"{CANDIDATE}{tensor.name}",
    )


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    name = f"{value.name}/as {dtype.name}"
    node = ir.node("Cast", [value], attributes={"to": dtype.value}, name=name)
    node.outputs[0].name = name
    graph.append(node)
    return node.outputs[0]


def _name_outputs(graph: ir.Graph, reference: ir.Graph) -> None:
    """End the graph in nodes that give the results the reference's names and types."""
    for index, (value, output) in enumerate(
        zip(list(graph.outputs), reference.outputs, strict=True)
    ):
        node = ir.node("Identity", [value], name=f"result {output.name}")
        result = node.outputs[0]
        result.name, result.type, result.shape = output.name, output.type, output.shape
        graph.append(node)
        graph.outputs[index] = result
