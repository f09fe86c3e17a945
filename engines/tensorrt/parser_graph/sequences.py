"""Parts of sequences as slices: TensorRT does not support ONNX sequences."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from covis.engines.tensorrt.parser_graph.constants import constant, small_constant


def slice_sequences(graph: ir.Graph) -> None:
    """Replace SplitToSequence of a constant size, read only by constant SequenceAt, by slices."""
    for split in [node for node in graph if node.op_type == "SplitToSequence"]:
        sequence = split.outputs[0]
        readers = list(sequence.consumers())
        size = _scalar(split.inputs[1]) if len(split.inputs) > 1 else None
        places = [_place(reader, graph) for reader in readers]
        if not size or size < 1 or sequence.is_graph_output() or None in places:
            continue
        axis = split.attributes.get_int("axis", 0)
        for reader, place in zip(readers, places, strict=True):
            assert place is not None
            nodes = _slice(split.inputs[0], reader.outputs[0], place * size, size, axis)
            ir.convenience.replace_nodes_and_values(
                graph, reader, [reader], nodes, reader.outputs, nodes[-1].outputs
            )
        graph.remove(split, safe=True)


def _place(reader: ir.Node, graph: ir.Graph) -> int | None:
    """Index that a SequenceAt of this graph reads; None where it is not constant, or negative."""
    if reader.op_type != "SequenceAt" or reader.graph is not graph:
        return None
    place = _scalar(reader.inputs[1])
    return place if place is not None and place >= 0 else None


def _scalar(value: ir.Value | None) -> int | None:
    """Read a constant integer without dimensions: an array would split by listed lengths."""
    array = small_constant(value)
    return int(array) if array is not None and array.ndim == 0 else None


def _slice(
    source: ir.Value | None, target: ir.Value, start: int, size: int, axis: int
) -> list[ir.Node]:
    """Create the nodes that cut `size` elements of `source` along `axis`."""
    bounds = {"start": start, "end": start + size, "axis": axis}
    nodes = [
        constant(f"{target.name}.{name}", np.array([value], np.int64))
        for name, value in bounds.items()
    ]
    inputs = [source, *(node.outputs[0] for node in nodes)]
    return [*nodes, ir.node("Slice", inputs, name=f"{target.name}.slice")]
