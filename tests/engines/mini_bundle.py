"""A complete bundle of two stages in a few kilobytes, built without torch, for tests to damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

Record = dict[str, Any]
H, W, C = 14, 28, 4


def write_bundle(folder: Path) -> Path:
    """Write the stages `encoder` (mean colour times a weight) and `saliency`, and their weights."""
    folder.mkdir()
    header = b'{"w":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]}}'
    header += b" " * (-len(header) % 8)
    weight = np.arange(12, dtype="<f4").tobytes()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weight)
    offset = 8 + len(header)
    onnx.save(encoder(offset), str(folder / "encoder.onnx"))
    onnx.save(saliency(), str(folder / "saliency.onnx"))
    (folder / "manifest.json").write_text(json.dumps(record()))
    sign(folder)
    return folder


def encoder(offset: int) -> onnx.ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, C])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "model.safetensors"), ("offset", offset), ("length", 48)):
        weight.external_data.add(key=key, value=str(value))
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "w"], ["patch_tokens"]),
    ]
    return _model(
        nodes,
        [("images", TensorProto.FLOAT, ["N", 3, H, W])],
        [("patch_tokens", TensorProto.FLOAT, ["N", C])],
        [weight, axes],
    )


def saliency() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Transpose", ["patch_tokens"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["patch_tokens", "turned"], ["similarity"]),
        helper.make_node("Unsqueeze", ["tau", "axes"], ["tau_of_each"]),
        helper.make_node("GreaterOrEqual", ["similarity", "tau_of_each"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["pair_levels"], to=TensorProto.INT32),
    ]
    return _model(
        nodes,
        [("patch_tokens", TensorProto.FLOAT, ["M", C]), ("tau", TensorProto.FLOAT, ["R"])],
        [
            ("similarity", TensorProto.FLOAT, ["M", "M"]),
            ("pair_levels", TensorProto.INT32, ["R", "M", "M"]),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )


def record() -> Record:
    """Build the manifest as JSON, without the digests, which `sign` adds."""

    def tensor(name: str, dtype: str, *shape: int | str) -> Record:
        return {"name": name, "dtype": dtype, "shape": list(shape)}

    tokens = tensor("patch_tokens", "float32", "M", C)
    pairs = [
        tensor("similarity", "float32", "M", "M"),
        tensor("pair_levels", "int32", "R", "M", "M"),
    ]
    return {
        "format": 2,
        "covis_version": "0.1.0",
        "op_version": 1,
        "opset": 20,
        "model": {
            "name": "vggt",
            "config": {"depth": 4},
            "patch": 14,
            "special_first": 5,
            "special_last": 0,
            "trailing_tokens": 0,
            "global_layers": 4,
            "global_heads": 2,
            "metric": False,
            "reference_view": True,
        },
        "weights": {
            "file": "model.safetensors",
            "source": "w.safetensors",
            "revision": None,
            "licence": "none",
            "dtype": "float32",
        },
        "pixel_rule": {"kind": "vggt_crop", "height": H, "width": W, "patch": 14},
        "pooling": "descriptor",
        "sparsity": {"selector": "saliency", "tau": 0.9, "layers": "0-9"},
        "stages": [
            {
                "name": "encoder",
                "scope": "frames",
                "graph": "encoder.onnx",
                "inputs": [tensor("images", "float32", "N", 3, H, W)],
                "outputs": [tensor("patch_tokens", "float32", "N", C)],
            },
            {
                "name": "saliency",
                "scope": "sequence",
                "graph": "saliency.onnx",
                "inputs": [tokens, tensor("tau", "float32", "R")],
                "outputs": pairs,
            },
        ],
        "checks": [],
        "files": [
            {"path": name, "size": 0, "sha256": "0" * 64}
            for name in ("encoder.onnx", "saliency.onnx", "model.safetensors")
        ],
    }


def edit(folder: Path, change: Callable[[Record], None]) -> None:
    """Let `change` alter the manifest of a bundle."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def edit_graph(folder: Path, stage: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Let `change` alter a graph, and sign the bundle again, as a forger could."""
    path = folder / f"{stage}.onnx"
    model = onnx.load(str(path), load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    sign(folder)


def sign(folder: Path) -> None:
    """Write the true size and digest of every listed file that exists into the manifest."""

    def change(manifest: Record) -> None:
        for file in manifest["files"]:
            path = folder / file["path"]
            if path.is_file():
                data = path.read_bytes()
                file["size"], file["sha256"] = len(data), hashlib.sha256(data).hexdigest()

    edit(folder, change)


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


_Value = tuple[str, int, list[int | str]]


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[_Value],
    outputs: list[_Value],
    initializers: list[TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "stage",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def put(bundle: Path, place: str, value: Any) -> None:
    """Set the field at a dotted place of the manifest."""
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]

    def change(manifest: Any) -> None:
        for part in path:
            manifest = manifest[part]
        manifest[last] = value

    edit(bundle, change)
