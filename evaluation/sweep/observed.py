"""An aggregator's graph with one more output: the change of one layer's attention against dense.

Beside the attention of the observed layer stands a dense copy of the same op, which reads the same
queries, keys and values. Only two sums leave the graph, so that nothing of the size of a layer is
kept from one run to the next, and the comparison needs no second run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from covis.engines.bundle.manifest import Stage, Tensor
from covis.engines.bundle.names import PAIR_LEVELS
from covis.engines.bundle.verified import VerifiedGraph
from covis.engines.errors import user_error
from covis.engines.op import ATTENTION, DOMAIN

CHANGE: Final = "attention_change"
"""Sum of squared differences from dense attention, and sum of its squares: float32 (2,)."""

_DENSE: Final = f"{CHANGE}/dense"
_LEVEL: Final = 3  # position of the level map among the inputs of BlockSparseAttention


@dataclass(frozen=True)
class EditedGraph(VerifiedGraph):
    """Verified graph that is loaded with a change of ours; its weights stay in their files.

    Attributes:
        edit: Returns the changed graph.
    """

    edit: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model

    def read(self) -> bytes:
        """Return the bytes of the changed graph, without its external tensors."""
        from covis.engines.graphs.read import parse_model

        changed: bytes = self.edit(parse_model(self.file.read(), self.path)).SerializeToString()
        return changed


def observed_stage(stage: Stage) -> Stage:
    """Return an aggregator's stage with the output `CHANGE`."""
    change = Tensor(name=CHANGE, dtype="float32", shape=(2,))
    return stage.model_copy(update={"outputs": (*stage.outputs, change)})


def observed_graph(graph: VerifiedGraph, layer: int, depth: int) -> EditedGraph:
    """Return an aggregator's graph with the output `CHANGE` for one of `depth` global layers.

    Raises:
        CovisError: On reading, if the graph's global layers cannot be told apart.
    """

    def edit(model: onnx.ModelProto) -> onnx.ModelProto:
        found = global_attention(model.graph)
        if not found or len(found) % depth:
            raise user_error(
                f"has {len(found)} attention ops for {depth} global layers",
                where=graph.path,
                hint="export the bundle again",
            )
        groups = len(found) // depth  # of heads: many views have an op for each
        return with_change(model, found[layer * groups : (layer + 1) * groups])

    return EditedGraph(graph.file, graph.data, edit)


def global_attention(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the attention ops whose level map comes from the maps of view pairs, in order.

    Each layer reads the results of the one before, so the order of the nodes is that of the layers.
    Frame attention has a constant level map.
    """
    from_maps = {PAIR_LEVELS}
    found = []
    for node in graph.node:
        if (node.domain, node.op_type) == (DOMAIN, ATTENTION):
            if node.input[_LEVEL] in from_maps:
                found.append(node)
        elif not from_maps.isdisjoint(node.input):
            from_maps.update(node.output)
    return found


def with_change(model: onnx.ModelProto, layer: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """Add the output `CHANGE` for the attention ops of one layer, which are groups of its heads."""
    graph = model.graph
    level: NDArray[np.int8] = np.full((1, 1, 1, 1), 2, np.int8)
    graph.initializer.append(numpy_helper.from_array(level, _DENSE))
    changes = [_add_change(graph, node, f"{CHANGE}/{group}") for group, node in enumerate(layer)]
    graph.node.append(helper.make_node("Sum", changes, [CHANGE]))
    graph.output.append(helper.make_tensor_value_info(CHANGE, TensorProto.FLOAT, [2]))
    return model


def _add_change(graph: onnx.GraphProto, node: onnx.NodeProto, name: str) -> str:
    """Add a dense copy of an attention op and its comparison; return the name of the two sums."""
    dense = onnx.NodeProto()
    dense.CopyFrom(node)
    dense.name, dense.input[_LEVEL], dense.output[0] = name, _DENSE, f"{name}/output"
    wide, right = f"{name}/sparse", f"{name}/wide"
    graph.node.extend(
        [
            dense,
            helper.make_node("Cast", [node.output[0]], [wide], to=TensorProto.FLOAT),
            helper.make_node("Cast", [dense.output[0]], [right], to=TensorProto.FLOAT),
            helper.make_node("Sub", [wide, right], [f"{name}/difference"]),
            *_sum_of_squares(f"{name}/difference", f"{name}/moved"),
            *_sum_of_squares(right, f"{name}/size"),
            helper.make_node("Concat", [f"{name}/moved", f"{name}/size"], [name], axis=0),
        ]
    )
    return name


def _sum_of_squares(source: str, target: str) -> list[onnx.NodeProto]:
    """Return the nodes that sum the squares of a tensor -> (1,): by rows first, for precision."""
    rows, flat, axis = f"{target}/rows", f"{target}/flat", f"{target}/axis"
    last = numpy_helper.from_array(np.array([-1], np.int64))
    return [
        helper.make_node("Constant", [], [axis], value=last),
        helper.make_node("ReduceSumSquare", [source, axis], [rows], keepdims=0),
        helper.make_node("Reshape", [rows, axis], [flat]),
        helper.make_node("ReduceSum", [flat, axis], [target], keepdims=1),
    ]
