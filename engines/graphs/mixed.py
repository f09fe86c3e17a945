"""One graph out of two: some layers as the reference has them, the others as the candidate does.

Both graphs come from the same export, so their tensors carry the same names; they differ in types,
in how weights are stored, and in nodes that a pass put between. A layer is known by the official
names of its weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import TensorProto, helper

from covis.engines.errors import user_error

PROLOGUE: Final = ""  # what reads no weight, directly or not: each side has its own
_COARSER: Final = "find the stage alone, without --by-layer"
# The reference's tensors are renamed too: its outputs' own names are those of the mixture.
_PREFIX: Final = ("reference/", "candidate/")


def layer_of(weight: str) -> str:
    """The layer that an initializer belongs to, by its official name.

    Up to the first number ("aggregator.frame_blocks.3.attn.qkv.weight" is of
    "aggregator.frame_blocks.3"), else the first three names of its module, or, right below the
    model's root, its own name. Constants that the exporter
    lifted out of the code belong to none.
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
    """A graph, and of each tensor that a node makes its layer and its element type."""

    model: onnx.ModelProto
    made_in: dict[str, str]
    dtype: dict[str, int]


def layered(model: onnx.ModelProto) -> LayeredGraph:
    """Sort what the nodes of a graph make into layers.

    What reads weights is of their layer; so is what only prepares them (casts, transpositions).
    Other nodes follow the latest of the nodes whose outputs they read.

    Raises:
        CovisError: a node holds a graph of its own.
    """
    graph = model.graph
    weights = {tensor.name: layer_of(tensor.name) for tensor in graph.initializer}
    place: dict[str, int] = {}  # of the node that makes a tensor
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
    """The layers that can be taken from either graph, in the reference's order."""
    common = _common(reference, candidate)
    found = (layer for name, layer in reference.made_in.items() if name in common)
    return tuple(dict.fromkeys(layer for layer in found if layer != PROLOGUE))


def _common(reference: LayeredGraph, candidate: LayeredGraph) -> frozenset[str]:
    """Where the two can meet: what both make and whose type is known (sequences have none)."""
    typed = reference.dtype.keys() & candidate.dtype.keys()
    return frozenset(typed & reference.made_in.keys() & candidate.made_in.keys())


def _dtypes(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by tensor: as the graph says, and inferred where it does not."""

    def said(graph: onnx.GraphProto) -> dict[str, int]:
        values = (*graph.input, *graph.output, *graph.value_info)
        return {value.name: value.type.tensor_type.elem_type for value in values}

    found = said(model.graph)
    if any(name not in found for node in model.graph.node for name in node.output if name):
        found = {**said(onnx.shape_inference.infer_shapes(model).graph), **found}
    found.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    return {name: dtype for name, dtype in found.items() if dtype}


def mix(reference: LayeredGraph, candidate: LayeredGraph, kept: Collection[str]) -> onnx.ModelProto:
    """A graph whose `kept` layers are the reference's, all others the candidate's.

    The two meet at the tensors that both make, cast where they differ in type. What only one of
    them makes (a cast that a pass put in) comes along with whatever reads it.

    External weights of the reference keep their location; the candidate's is prefixed with
    "candidate/": whoever loads the graph must hand those over.
    """
    return _Mixer(reference, candidate, frozenset(kept)).build()


class _Mixer:
    def __init__(
        self, reference: LayeredGraph, candidate: LayeredGraph, kept: frozenset[str]
    ) -> None:
        self._sides = (reference, candidate)
        self._common = _common(reference, candidate)
        self._kept = kept
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
            node.name = f"{index} {node.name}"  # names of nodes must differ, where there are any
        graph = reference.model.graph
        results = [self._identity(output) for output in graph.output]
        made = onnx.GraphProto(name=graph.name, input=graph.input, output=graph.output)
        made.node.extend(_needed([*nodes, *self._extra, *results], results))
        made.initializer.extend(self._initializers(made.node))
        model = onnx.ModelProto()
        model.CopyFrom(reference.model)
        model.graph.CopyFrom(made)
        known = {(f.domain, f.name) for f in model.functions}
        model.functions.extend(
            f for f in candidate.model.functions if (f.domain, f.name) not in known
        )
        return model

    def _side_of(self, name: str, reader: int) -> int:
        """Whose tensor a node of side `reader` reads; 0 is the reference, 1 the candidate."""
        layer = self._sides[0].made_in[name] if name in self._common else PROLOGUE
        return reader if layer == PROLOGUE else 0 if layer in self._kept else 1

    def _rewired(self, node: onnx.NodeProto, side: int) -> onnx.NodeProto:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name = f"{_PREFIX[side]}{node.name}"
        new.output[:] = [f"{_PREFIX[side]}{name}" if name else "" for name in node.output]
        new.input[:] = [self._source(name, side) if name else "" for name in node.input]
        return new

    def _source(self, name: str, side: int) -> str:
        """What a node of one side reads: its own side's tensor, or the other's, cast."""
        here = self._sides[side]
        if any(value.name == name for value in here.model.graph.input):
            return self._cast(name, name, 0, side)
        maker = self._side_of(name, side)
        return self._cast(f"{_PREFIX[maker]}{name}", name, maker, side)

    def _identity(self, output: onnx.ValueInfoProto) -> onnx.NodeProto:
        source = self._source(output.name, 0)
        return helper.make_node("Identity", [source], [output.name], name=f"result {output.name}")

    def _cast(self, made: str, name: str, maker: int, reader: int) -> str:
        """The tensor `made` of side `maker`, in the type it has on the reader's side."""
        if maker == reader:
            return made
        have, want = (self._sides[side].dtype[name] for side in (maker, reader))
        if have == want:
            return made
        if (made, want) not in self._casts:
            target = f"{made}/as {TensorProto.DataType.Name(want)}"
            self._casts[made, want] = target
            self._extra.append(helper.make_node("Cast", [made], [target], name=target, to=want))
        return self._casts[made, want]

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
    """What the results depend on, and no more, in topological order: depth-first search."""
    maker = {name: node for node in nodes for name in node.output if name}
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
        makers = (maker[name] for name in node.input if name in maker)
        stack.extend((before, False) for before in makers if id(before) not in done)
    return order
