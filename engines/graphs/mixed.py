"""Mix two versions of a graph: some layers from the reference, the others from the candidate.

Both graphs come from the same export, so their tensors have the same names. They differ in types,
in the storage of weights, and in nodes that a pass has inserted. A layer is identified by the
official names of its weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import TensorProto, helper

from covis.engines.errors import user_error

PROLOGUE: Final = ""  # layer of nodes that depend on no weight; each side keeps its own
_COARSER: Final = "find the stage alone, without --by-layer"
# The reference's tensors are renamed too, because the mixture has outputs of the same names.
_PREFIX: Final = ("reference/", "candidate/")


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
    """A graph with the layer and the element type of each tensor.

    Attributes:
        model: The graph.
        layer: Layer of every node output, by name.
        dtype: Element type (of `onnx.TensorProto`) of every tensor whose type is known, by name.
    """

    model: onnx.ModelProto
    layer: dict[str, str]
    dtype: dict[str, int]


def layered(model: onnx.ModelProto) -> LayeredGraph:
    """Assign the node outputs of a graph to layers.

    A node that reads weights belongs to their layer, and so do the nodes that only prepare weights
    (casts, transpositions). Any other node belongs to the layer of its latest predecessor.

    Raises:
        CovisError: a node contains a subgraph.
    """
    graph = model.graph
    weights = {tensor.name: layer_of(tensor.name) for tensor in graph.initializer}
    place: dict[str, int] = {}  # tensor -> index of the node that produces it
    layer: list[str] = []
    for index, node in enumerate(graph.node):
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise user_error("holds a graph of its own", where=f"node {node.name}", hint=_COARSER)
        read = [name for name in node.input if name]
        own = [weights[name] for name in read if weights.get(name)]
        if read and all(name in weights for name in read):
            weights.update(dict.fromkeys(node.output, own[0] if own else PROLOGUE))
        if not own:
            before = sorted((place[name] for name in read if name in place), reverse=True)
            own = [layer[number] for number in before if layer[number]]
        layer.append(own[0] if own else PROLOGUE)
        place.update({name: index for name in node.output if name})
    return LayeredGraph(
        model, {name: layer[index] for name, index in place.items()}, _dtypes(model)
    )


def common_layers(reference: LayeredGraph, candidate: LayeredGraph) -> tuple[str, ...]:
    """List the layers that can be taken from either graph, in the reference's order."""
    common = _common(reference, candidate)
    found = (layer for name, layer in reference.layer.items() if name in common)
    return tuple(dict.fromkeys(layer for layer in found if layer != PROLOGUE))


def _common(reference: LayeredGraph, candidate: LayeredGraph) -> frozenset[str]:
    """Find the tensors at which the graphs can be joined: both produce them, of known type."""
    typed = reference.dtype.keys() & candidate.dtype.keys()
    return frozenset(typed & reference.layer.keys() & candidate.layer.keys())


def _dtypes(model: onnx.ModelProto) -> dict[str, int]:
    """Collect the element type of every tensor: recorded in the graph, else inferred."""

    def recorded(graph: onnx.GraphProto) -> dict[str, int]:
        values = (*graph.input, *graph.output, *graph.value_info)
        return {value.name: value.type.tensor_type.elem_type for value in values}

    found = recorded(model.graph)
    if any(name not in found for node in model.graph.node for name in node.output if name):
        found = {**recorded(onnx.shape_inference.infer_shapes(model).graph), **found}
    found.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    return {name: dtype for name, dtype in found.items() if dtype}


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
    return _Mixer(reference, candidate, frozenset(reference_layers)).build()


class _Mixer:
    def __init__(
        self, reference: LayeredGraph, candidate: LayeredGraph, reference_layers: frozenset[str]
    ) -> None:
        self._sides = (reference, candidate)
        self._common = _common(reference, candidate)
        self._reference_layers = reference_layers
        self._casts: dict[tuple[str, int], str] = {}
        self._extra: list[onnx.NodeProto] = []

    def build(self) -> onnx.ModelProto:
        reference, candidate = self._sides
        nodes = [
            self._rewired(node, side)
            for side, graph in enumerate(self._sides)
            for node in graph.model.graph.node
        ]
        for index, node in enumerate(nodes):
            node.name = f"{index} {node.name}"  # names must be unique unless they are empty
        graph = reference.model.graph
        results = [self._identity(output) for output in graph.output]
        mixed = onnx.GraphProto(name=graph.name, input=graph.input, output=graph.output)
        mixed.node.extend(_needed([*nodes, *self._extra, *results], results))
        mixed.initializer.extend(self._initializers(mixed.node))
        model = onnx.ModelProto()
        model.CopyFrom(reference.model)
        model.graph.CopyFrom(mixed)
        known = {(f.domain, f.name) for f in model.functions}
        model.functions.extend(
            f for f in candidate.model.functions if (f.domain, f.name) not in known
        )
        return model

    def _side_of(self, name: str, reader: int) -> int:
        """Return the side (0 reference, 1 candidate) whose tensor a node of side `reader` reads."""
        layer = self._sides[0].layer[name] if name in self._common else PROLOGUE
        return reader if layer == PROLOGUE else 0 if layer in self._reference_layers else 1

    def _rewired(self, node: onnx.NodeProto, side: int) -> onnx.NodeProto:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name = f"{_PREFIX[side]}{node.name}"
        new.output[:] = [f"{_PREFIX[side]}{name}" if name else "" for name in node.output]
        new.input[:] = [self._source(name, side) if name else "" for name in node.input]
        return new

    def _source(self, name: str, side: int) -> str:
        """Return the tensor that a node of one side reads: its own side's, or the other's, cast."""
        here = self._sides[side]
        if any(value.name == name for value in here.model.graph.input):
            return self._cast(name, name, 0, side)
        producer = self._side_of(name, side)
        return self._cast(f"{_PREFIX[producer]}{name}", name, producer, side)

    def _identity(self, output: onnx.ValueInfoProto) -> onnx.NodeProto:
        source = self._source(output.name, 0)
        return helper.make_node("Identity", [source], [output.name], name=f"result {output.name}")

    def _cast(self, tensor: str, name: str, producer: int, reader: int) -> str:
        """Return a tensor of side `producer` in the type that it has on the reader's side."""
        if producer == reader:
            return tensor
        source, target = (self._sides[side].dtype[name] for side in (producer, reader))
        if source == target:
            return tensor
        if (tensor, target) not in self._casts:
            cast = f"{tensor}/as {TensorProto.DataType.Name(target)}"
            self._casts[tensor, target] = cast
            self._extra.append(helper.make_node("Cast", [tensor], [cast], name=cast, to=target))
        return self._casts[tensor, target]

    def _initializers(self, nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
        read = {name for node in nodes for name in node.input}
        for side, layered_graph in enumerate(self._sides):
            for tensor in layered_graph.model.graph.initializer:
                if f"{_PREFIX[side]}{tensor.name}" not in read:
                    continue
                new = TensorProto()
                new.CopyFrom(tensor)
                new.name = f"{_PREFIX[side]}{tensor.name}"
                for entry in new.external_data:
                    if entry.key == "location" and side:
                        entry.value = f"{_PREFIX[1]}{entry.value}"
                yield new


def _needed(nodes: list[onnx.NodeProto], results: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Select the nodes that the results depend on, in topological order, by depth-first search."""
    producer = {name: node for node in nodes for name in node.output if name}
    done: set[int] = set()
    order: list[onnx.NodeProto] = []
    stack = [(node, False) for node in reversed(results)]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            order.append(node)
            continue
        stack.append((node, True))
        sources = (producer[name] for name in node.input if name in producer)
        stack.extend((source, False) for source in sources if id(source) not in done)
    return order
