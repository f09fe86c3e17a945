"""Trace one stage of a model to one ONNX graph."""

from __future__ import annotations

import ast
import contextlib
import inspect
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from torch import Tensor

from covis.engines.bundle.manifest import OPSET
from covis.export.ops.translate import translation_table
from covis.export.selection.block_maps import Q_BLOCK
from covis.export.sizes import name_symbols
from covis.export.stage import FRAMES, MAPS, PROBES, VIEWS, Port, StageModule

_EXAMPLE = {FRAMES: 3, PROBES: 5, MAPS: 2}  # the tracer treats 0 and 1 as constants
_PREFIX = "model."  # attribute of stage modules that contains the model
_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata: modules from the outermost one, then the op


def export_graph(stage: StageModule) -> ir.Model:
    """Trace a stage and name inputs, outputs, dimensions, parameters and nodes for the runtime.

    Returns:
        A model in opset 20 whose attention nodes are `covis::BlockSparseAttention` and
        `covis::BlockSelect`, without function bodies, because passes run first. Initializers have
        the names of the checkpoint; tensors that the module computed itself are initializers too.
    """
    views = _example_views(stage)
    inputs = tuple(_example(port, views) for port in stage.inputs)
    symbols = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, n in enumerate(p.shape) if isinstance(n, str)}
        for p in stage.inputs
    )
    with torch.inference_mode(), _quiet(), _named_inputs(stage):
        program = torch.onnx.export(
            stage.module.eval(),
            inputs,
            dynamo=True,
            dynamic_shapes=symbols,
            input_names=[port.name for port in stage.inputs],
            output_names=[port.name for port in stage.outputs],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            custom_translation_table={
                **translation_table(),
                torch.ops.aten.linear.default: _linear,
                torch.ops.aten.sort.stable: _stable_sort,
            },
        )
    assert program is not None
    model = program.model
    _name_ports(model.graph, stage)
    _name_parameters(model.graph)
    _name_nodes(model.graph)
    _drop_traces(model.graph)
    model.producer_name = "covis"
    return model


def _example_views(stage: StageModule) -> int:
    """Return the number of views for tracing.

    Queries have to fill three blocks, because with a single block the tracer would fix their
    number.
    """
    patches = [p.shape[1] for p in stage.inputs if p.name == "patch_tokens"]
    return max([3, *(-(-2 * Q_BLOCK // int(n)) + 1 for n in patches)])


def _example(port: Port, views: int) -> Tensor:
    lengths = {**_EXAMPLE, VIEWS: views}
    shape = [lengths[n] if isinstance(n, str) else n for n in port.shape]
    return torch.zeros(shape, dtype=port.dtype)


@contextlib.contextmanager
def _named_inputs(stage: StageModule) -> Iterator[None]:
    """Give `forward` one named parameter for each port while tracing.

    torch 2.9 cannot distinguish the inputs of a function of `*tensors`.
    """
    forward = stage.module.forward

    def named(*tensors: Tensor) -> Any:
        return forward(*tensors)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(port.name, kind) for port in stage.inputs])
    named.__signature__ = signature  # type: ignore[attr-defined]
    stage.module.forward = named
    try:
        yield
    finally:
        del stage.module.forward


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Write torch.nn.functional.linear as Gemm(transB=1) on flattened rows.

    The exporter's own MatMul has a transposed weight. Runtimes would fold the transposition at
    load, which copies every weight out of the memory-mapped file.
    """
    rows = op.Flatten(x, axis=-1)
    product = (
        op.Gemm(rows, weight, bias, transB=1)
        if bias is not None
        else op.Gemm(rows, weight, transB=1)
    )
    leading = op.Shape(x, start=0, end=-1)
    width = op.Shape(weight, start=0, end=1)
    return op.Reshape(product, op.Concat(leading, width, axis=0))


def _stable_sort(
    x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """Write a stable torch.sort as TopK of the whole dimension.

    The exporter translates the unstable variant alone. TopK lists equal values by rising index.
    """
    length = op.Shape(x, start=dim, end=dim + 1 or None)
    return op.TopK(x, length, axis=dim, largest=int(descending), sorted=1)


def _name_ports(graph: ir.Graph, stage: StageModule) -> None:
    """Write all shapes in the symbols of the ports instead of the tracer's (such as `s77`)."""
    symbols = {}
    for value, port in zip(graph.inputs, stage.inputs, strict=True):
        for dim, name in zip(value.shape or (), port.shape, strict=True):
            if isinstance(dim, ir.SymbolicDim) and isinstance(name, str):
                symbols[str(dim.value)] = name
    name_symbols(graph, symbols)
    for value, port in zip(
        [*graph.inputs, *graph.outputs], [*stage.inputs, *stage.outputs], strict=True
    ):
        assert value.name == port.name, (value.name, port.name)
        value.shape = ir.Shape(port.shape)


def _name_parameters(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if name.startswith(_PREFIX):
            del graph.initializers[name]
            value.name = name.removeprefix(_PREFIX)
            graph.initializers[value.name] = value


def layer_of(node: ir.Node) -> str:
    """Return the layer of a node by its name in the checkpoint; "" for the stage's own code."""
    return (node.name or "").rpartition("/")[0]


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes `<layer>/<operator>_<number>`, for engines, comparisons and `--keep-fp32`.

    The layer is the innermost module whose code created the node, by its path in the checkpoint.
    """
    count: Counter[str] = Counter()
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        inside = [scope for scope in scopes[:-1] if scope.startswith(_PREFIX)]
        layer = inside[-1].removeprefix(_PREFIX) if inside else ""
        stem = f"{layer}/{node.op_type}"
        node.name = f"{stem}_{count[stem]}"
        count[stem] += 1


def _drop_traces(graph: ir.Graph) -> None:
    """Remove the Python stack traces that the exporter stores on every node.

    They are most of the file, and contain local paths.
    """
    for node in ir.traversal.RecursiveGraphIterator(graph):
        node.metadata_props.clear()
        node.meta.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            value.meta.clear()
    graph.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages about packages that users of covis do not need."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
