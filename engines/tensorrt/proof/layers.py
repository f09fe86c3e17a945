"""Parse the JSON of TensorRT's engine inspector: kind, kernel, inputs and outputs of each layer.

Format: `IEngineInspector::getEngineInformation(kJSON)` of engines built with detailed profiling
verbosity, as the TensorRT developer guide shows it: `{"Layers": [...], "Bindings": [...]}`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from covis.engines.errors import environment_error

# No name contains the mark itself; so each mark is searched only up to the next one.
_NODE: Final = re.compile(
    r"\[ONNX Layer: ((?:(?!\[ONNX Layer: ).)*?)\](?=\[ONNX|[\s\x00-\x1f,\ufffd]|$)"
)
# Newer versions write "Half", older ones "Row major linear FP16 format". Longest names first.
_TYPES: Final = (
    (re.compile(r"bfloat16|bf16", re.I), "bfloat16"),
    (re.compile(r"fp8|e4m3", re.I), "float8_e4m3fn"),
    (re.compile(r"fp4|e2m1", re.I), "float4_e2m1fn"),
    (re.compile(r"half|fp16|float16", re.I), "float16"),
    (re.compile(r"int64", re.I), "int64"),
    (re.compile(r"uint8", re.I), "uint8"),
    (re.compile(r"int32", re.I), "int32"),
    (re.compile(r"int8", re.I), "int8"),
    (re.compile(r"int4", re.I), "int4"),
    (re.compile(r"bool", re.I), "bool"),
    (re.compile(r"float|fp32", re.I), "float32"),
)


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: Name of the layer; often that of the ONNX node if there is only one.
        kind: TensorRT's class of layer, e.g. "gemm", "kgen", "PluginV3", "Reformat".
        kernel: Name of the tactic; empty if TensorRT gives none.
        plugin: Type of the plugin; empty for TensorRT's own layers.
        nodes: Names of the ONNX nodes that the layer computes.
        inputs: Element type of each input.
        outputs: Element type of each output.
    """

    name: str
    kind: str
    kernel: str
    plugin: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def is_plugin(self) -> bool:
        """True if a plugin runs the layer."""
        return self.kind.startswith("Plugin") or bool(self.plugin)


def parse_layers(text: str, where: str = "layer information") -> tuple[Layer, ...]:
    """Parse every layer, in the order in which they run.

    Raises:
        CovisError: the text is not such JSON, or contains only names, because the engine was built
            with less than detailed verbosity (exit code 3).
    """
    try:
        layers = json.loads(text)["Layers"]
        if not isinstance(layers, list):
            raise TypeError("Layers is no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise environment_error(
            f"is not the engine inspector's JSON ({error})", where=where, hint="build the plan anew"
        ) from error
    if any(isinstance(layer, str) for layer in layers):
        raise environment_error(
            "holds only names of layers",
            where=where,
            hint="build with --profilingVerbosity detailed",
        )
    return tuple(_layer(layer) for layer in layers if isinstance(layer, dict))


def element_type(words: str) -> str:
    """Find the element type in TensorRT's description of a tensor's format, else "unknown"."""
    return next((name for pattern, name in _TYPES if pattern.search(words)), "unknown")


def _layer(record: dict[str, Any]) -> Layer:
    def text(key: str) -> str:
        value = record.get(key, "")
        return value if isinstance(value, str) else ""

    def types(key: str) -> tuple[str, ...]:
        tensors = record.get(key)
        found = tensors if isinstance(tensors, list) else []
        return tuple(
            element_type(str(t.get("Format/Datatype", t.get("Datatype", ""))))
            for t in found
            if isinstance(t, dict)
        )

    return Layer(
        name=text("Name"),
        kind=text("LayerType"),
        kernel=text("TacticName"),
        plugin=text("PluginType"),
        nodes=tuple(_NODE.findall(text("Metadata"))),
        inputs=types("Inputs"),
        outputs=types("Outputs"),
    )
