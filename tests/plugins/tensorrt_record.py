"""What TensorRT's own ONNX parser makes of a graph (tests/plugins/recorder), as Python values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from covis.engines.graph import external_data, load_graph
from covis.engines.parser_input import DOMAIN, for_tensorrt
from tests.plugins.tensorrt_build import build_programs, run_program

LIMIT = 2**31  # elements of a tensor, from which TensorRT refuses most layers
Record = dict[str, Any]


def record(
    graph: Path,
    folder: Path,
    lengths: Mapping[str, int] | None = None,
    *,
    initializers: bool = False,
) -> Record:
    """Parse the copy that `covis build` parses.

    Args:
        graph: a bundle's graph, beside its weights.
        folder: for the copy.
        lengths: of the symbols in the inputs' shapes; they stay open where not given.
        initializers: hand external weights over as pointers, as `covis build` does where it can.
    """
    programs = build_programs()
    model = load_graph(graph)
    copy = folder / f"{graph.stem}.parsed.onnx"
    copy.write_bytes(for_tensorrt(model).SerializeToString())
    sizes = [f"{i.name}={'x'.join(map(str, _shape(i, lengths)))}" for i in model.graph.input]
    command = [str(programs / "covis_trt_record"), str(copy), str(graph)]
    command.append(str(programs / "libcovis_trt.so"))
    command += sizes if lengths else []
    if initializers:
        listed = copy.with_suffix(".initializers")
        listed.write_text("".join(
            f"{e.tensor}\t{e.offset}\t{e.length}\t{graph.parent / e.location}\n"
            for e in external_data(for_tensorrt(model))
        ))  # fmt: skip
        command.append(f"@{listed}")
    made: Record = json.loads(run_program(command))
    return made


def plugin_fields(graph: Path) -> list[str]:
    """What each op node's plugin must say of its attributes, in the order of the nodes.

    Attention in float32 without a map is left to TensorRT's own operators.
    """
    model = load_graph(graph)
    kept = {node.name for node in for_tensorrt(model).graph.node if node.domain == DOMAIN}
    return [_fields(n) for n in model.graph.node if n.domain == DOMAIN and n.name in kept]


def tensors(made: Record) -> list[Record]:
    """Every tensor of the network, inputs first."""
    return [*made["inputs"], *(tensor for layer in made["layers"] for tensor in layer["outputs"])]


def oversized(made: Record) -> list[str]:
    """Tensors of too many elements, by name and shape."""
    found = []
    for tensor in tensors(made):
        if min(tensor["dims"], default=1) >= 0 and math.prod(tensor["dims"]) >= LIMIT:
            found.append(f"{tensor['name'] or '?'} {tensor['dims']}")
    return found


def _shape(value: onnx.ValueInfoProto, lengths: Mapping[str, int] | None) -> list[int]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value or (lengths or {}).get(dim.dim_param, -1) for dim in dims]


def _fields(node: onnx.NodeProto) -> str:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    blocks = {"q_block": 1, "k_block": 1}
    if node.op_type == "BlockSelect":
        blocks = {"q_block": 128, "k_block": 64}
    layout = {"frame_tokens": 1, "special_first": 0, "special_last": 0, "trailing_tokens": 0}
    words = [f"{name}={given.get(name, value)}" for name, value in {**layout, **blocks}.items()]
    if node.op_type == "BlockSelect":
        words.append(f"pool={given.get('pool', b'mean').decode()}")
    else:
        words.append(f"scale={given.get('scale', 0.0):f}")
    return " ".join([node.op_type, *words])
