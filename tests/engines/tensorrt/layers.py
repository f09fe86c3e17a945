"""Layer information of an engine as TensorRT writes it, for a given graph.

Written from the documented format and from output of TensorRT 10 that users have published; no
engine of ours stands behind it. Products become `gemm` layers with a fused neighbour, nodes of ours
plugins, the rest `kgen` layers of a few nodes each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx

from covis.engines.graphs.shapes import TensorFacts

WORDS = {
    onnx.TensorProto.FLOAT: "Float",
    onnx.TensorProto.FLOAT16: "Half",
    onnx.TensorProto.BFLOAT16: "BFloat16",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.INT8: "Int8",
    onnx.TensorProto.INT32: "Int32",
    onnx.TensorProto.INT64: "Int64",
    onnx.TensorProto.BOOL: "Bool",
}
KERNELS = {"Float": "f32f32_f32f32_f32", "Half": "f16f16_f16f32_f32", "FP8": "e4m3e4m3_f32_f32"}
Layer = dict[str, Any]


def engine_layers(model: onnx.ModelProto, facts: Mapping[str, TensorFacts]) -> list[Layer]:
    """Create an entry for each layer of an engine that agrees with its graph."""
    producers = {name: node for node in model.graph.node for name in node.output}
    layers: list[Layer] = []
    loose: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.domain == "covis":
            layers.append(_layer(node.name, "PluginV3", [node], facts))
            layers[-1] |= {"ParameterType": "PluginV3", "PluginType": node.op_type}
            layers[-1]["TacticName"] = ""
        elif node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            layer = _layer(f"{node.name}_myl0_{len(layers)}", "gemm", [node], facts)
            maker = producers.get(node.input[0])
            if maker is not None and maker.op_type == "DequantizeLinear":
                layer["Inputs"][0] |= {"Format/Datatype": WORDS[facts[maker.input[0]].dtype]}
            words = layer["Inputs"][0]["Format/Datatype"]
            kernel = f"sm90_xmma_gemm_{KERNELS.get(words, words)}_tn_n_tilesize128x128x64"
            layers.append(layer | {"TacticName": kernel})
        elif node.op_type not in ("Constant", "Shape", "Identity"):
            loose.append(node)
        if len(loose) == 3:
            name = f"__myl_{''.join(n.op_type[:4] for n in loose)}_myl0_{len(layers)}"
            layers.append(_layer(name, "kgen", loose, facts) | {"TacticName": f"{name}_0x9ab1"})
            loose = []
    return layers


def as_json(layers: list[Layer]) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["patch_tokens", "tap0"]})


def _layer(
    name: str, kind: str, nodes: list[onnx.NodeProto], facts: Mapping[str, TensorFacts]
) -> Layer:
    def tensor(name: str) -> Layer:
        fact = facts[name]
        return {
            "Name": name,
            "Dimensions": list(fact.shape),
            "Format/Datatype": WORDS.get(fact.dtype, "Float"),
        }

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [tensor(n) for n in nodes[0].input if n],
        "Outputs": [tensor(n) for n in nodes[-1].output if n],
        "TacticName": "",
        "StreamId": 0,
        "Metadata": "\x1f".join(f"[ONNX Layer: {node.name}]" for node in nodes),
    }
