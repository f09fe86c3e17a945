"""Empty implementations of TensorRT's interface classes, written from NvInferImpl.h of any version.

The header's pure virtual functions differ from version to version. For each class `VName` this
prints a class `Name` that implements them all: what `setX` is given is kept in `x_X` (and `has_X`
says that it was), `getX` gives it back, anything else is noted by name and returns nothing. The
recorder overrides what it cares about.

    python generate.py NvInferImpl.h > bases.h
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CLASSES = ["Tensor", "Layer", "Builder", "NetworkDefinition"]
CLASSES += ["ActivationLayer", "CastLayer", "ConcatenationLayer", "ConstantLayer"]
CLASSES += ["ConvolutionLayer", "DeconvolutionLayer", "DequantizeLayer", "ElementWiseLayer"]
CLASSES += ["FillLayer", "GatherLayer", "IdentityLayer", "MatrixMultiplyLayer"]
CLASSES += ["NormalizationLayer", "PluginV3Layer", "QuantizeLayer", "ReduceLayer", "ResizeLayer"]
CLASSES += ["ScatterLayer", "SelectLayer", "ShapeLayer", "ShuffleLayer", "SliceLayer"]
CLASSES += ["SoftMaxLayer", "SqueezeLayer", "TopKLayer", "UnaryLayer", "UnsqueezeLayer"]

METHOD = re.compile(
    r"virtual\s+([\w:\s*&]+?)\s*(\w+)\(([^()]*)\)\s*(const)?\s*(noexcept)?\s*=\s*0;"
)


def main(header: Path) -> None:
    """Print the classes."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/|TRT_DEPRECATED", "", header.read_text(), flags=re.S)
    print("#pragma once\n#include <NvInfer.h>\n#include <NvInferImpl.h>\n")
    print('#include "nothing.h"\n\nnamespace nvinfer1::recorded {\nusing namespace apiv;')
    for name in CLASSES:
        body = re.search(rf"class V{name}\s*:\s*public VRoot\s*\{{(.*?)\n\}};", text, re.S)
        if body is None:
            continue  # that version has no such layer
        print(f"#define COVIS_HAS_{name} 1")
        print(f"class {name} : public V{name} {{\n public:\n  bool* edited = nullptr;")
        methods = METHOD.findall(body[1])
        setters = {}
        for _, method, arguments, _, _ in methods:
            one = re.fullmatch(r"\s*(.*?[\s&*])\s*(\w+)\s*", arguments)
            if method.startswith("set") and one and "," not in arguments:
                kept = re.sub(r"\bconst\b|&", "", one[1]) if "*" not in one[1] else one[1]
                setters[method[3:]] = kept.strip()
        for kept, kind in setters.items():
            print(f"  {kind} x_{kept}{{}};\n  bool has_{kept} = false;")
        for result, method, arguments, const, noexcept in methods:
            _method(name, " ".join(result.split()), method, arguments, const, noexcept, setters)
        print("};")
    print("}  // namespace nvinfer1::recorded")


def _method(
    owner: str,
    result: str,
    method: str,
    arguments: str,
    const: str,
    noexcept: str,
    setters: dict[str, str],
) -> None:
    parts = [part.strip() for part in arguments.split(",") if part.strip()]
    types = [re.sub(r"(.*[\s&*])\w+$", r"\1", part.split("=")[0].strip()) for part in parts]
    kept = method[3:]
    named = f"{types[0]} given" if method[:3] == "set" and kept in setters else ", ".join(types)
    print(f"  {result} {method}({named}) {const} {noexcept} override {{", end="")
    if method[:3] == "set" and kept in setters:
        print(f" x_{kept} = given; has_{kept} = true; if (edited) *edited = true;", end="")
        print(" return true;" if result == "bool" else "", "}")
    elif method[:3] == "get" and kept in setters and not parts:
        print(f" return x_{kept}; }}")
    else:
        print(f' return nothing<{result}>("{owner}::{method}"); }}')
    if owner == "NetworkDefinition":
        print(f"#define COVIS_HAS_{method} 1")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
