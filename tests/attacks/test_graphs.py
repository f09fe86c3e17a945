"""Forged graphs in a bundle whose digests all agree: nothing outside the weights file is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode
from tests.engines.mini_bundle import edit, edit_graph, sign


def refused(bundle: Path, message: str, stage: str = "encoder") -> None:
    with pytest.raises(CovisError, match=message) as caught:
        open_bundle(bundle)
    assert caught.value.code == ExitCode.USER
    assert str(caught.value).startswith(str(bundle / f"{stage}.onnx"))
    assert "\n" not in str(caught.value) and caught.value.hint


def external(location: str, offset: str = "0", length: str = "4") -> TensorProto:
    tensor = TensorProto(name="evil", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "", "./model.safetensors", "manifest.json", "model.safetensors\0",
     "plans/../model.safetensors", "MODEL.SAFETENSORS"],
)  # fmt: skip
def test_external_data_elsewhere(mini_bundle: Path, location: str) -> None:
    edit_graph(mini_bundle, "encoder", lambda m: m.graph.initializer.append(external(location)))
    refused(mini_bundle, "tensor 'evil' points to .*, not to the weights file; do not trust")


@pytest.mark.parametrize(
    ("offset", "length"),
    [("9999", "4"), ("0", "9999"), ("120", "1"), ("-4", "4"), ("0", "-1"), ("0", ""), ("x", "4"),
     ("²", "4"), ("0x10", "4"), (str(2**63), str(2**63)), ("9" * 5000, "4"), (" 1", "4")],
)  # fmt: skip
def test_external_data_past_the_end(mini_bundle: Path, offset: str, length: str) -> None:
    size = (mini_bundle / "model.safetensors").stat().st_size
    assert size == 120
    tensor = external("model.safetensors", offset, length)
    edit_graph(mini_bundle, "encoder", lambda m: m.graph.initializer.append(tensor))
    refused(mini_bundle, "tensor 'evil' points past the end of 'model.safetensors'")


def test_external_data_said_twice(mini_bundle: Path) -> None:
    tensor = external("model.safetensors")
    tensor.external_data.add(key="offset", value="8")
    edit_graph(mini_bundle, "encoder", lambda m: m.graph.initializer.append(tensor))
    refused(mini_bundle, "points past the end")


def hide(model: onnx.ModelProto, place: str) -> None:
    """Put a tensor that points outside where a hasty check does not look."""
    evil = external("../secret")
    constant = helper.make_node("Constant", [], ["unused"], value=evil)
    inner = helper.make_graph([constant], "inner", [], [])
    graph = model.graph
    if place == "attribute":
        graph.node.append(constant)
    elif place == "list":
        graph.node.append(onnx.NodeProto(op_type="Constant", output=["unused"]))
        graph.node[-1].attribute.add(name="values").tensors.append(evil)
    elif place == "subgraph":
        graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner))
    elif place == "subsubgraph":
        outer = helper.make_graph(
            [helper.make_node("If", ["c"], ["d"], then_branch=inner)], "outer", [], []
        )
        graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=outer))
    elif place == "function":
        model.functions.add(name="F", domain="covis").node.append(constant)
    elif place == "function default":
        model.functions.add(name="F", domain="covis").attribute_proto.add(name="a").t.CopyFrom(evil)
    elif place == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(evil)
    elif place == "sparse indices":
        graph.sparse_initializer.add().indices.CopyFrom(evil)
    else:
        model.training_info.add().initialization.initializer.append(evil)


@pytest.mark.parametrize(
    "place",
    ["attribute", "list", "subgraph", "subsubgraph", "function", "function default", "sparse",
     "sparse indices", "training"],
)  # fmt: skip
def test_external_data_in_hidden_places(mini_bundle: Path, place: str) -> None:
    edit_graph(mini_bundle, "encoder", lambda m: hide(m, place))
    refused(mini_bundle, "tensor 'evil' points to '../secret', not to the weights file")


def test_swapped_graphs(mini_bundle: Path, tmp_path: Path) -> None:
    shutil.move(mini_bundle / "encoder.onnx", tmp_path / "encoder.onnx")
    shutil.move(mini_bundle / "saliency.onnx", mini_bundle / "encoder.onnx")
    shutil.move(tmp_path / "encoder.onnx", mini_bundle / "saliency.onnx")
    sign(mini_bundle)
    refused(mini_bundle, "only the manifest has input 'images'")


def test_one_graph_serving_two_stages(mini_bundle: Path) -> None:
    edit(mini_bundle, lambda m: m["stages"][1].update(graph="encoder.onnx"))
    refused(mini_bundle, "only the graph has input 'images'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.output[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 5),
         r"output 'patch_tokens' is float32 \(\?, 5\) in the graph, float32 \(N, 4\) in the man"),
        (lambda m: m.graph.output[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 1),
         r"is float32 \(1, 4\) in the graph"),
        (lambda m: m.graph.output[0].type.tensor_type.shape.dim.add(),
         r"is float32 \(\?, 4, \?\) in the graph"),
        (lambda m: m.graph.output[0].type.tensor_type.__setattr__("elem_type", 11),
         "is float64 .* in the graph"),
        (lambda m: m.graph.input[0].__setattr__("name", "pictures"),
         "only the manifest has input 'images'"),
    ],
    ids=["size", "fixed", "rank", "type", "name"],
)  # fmt: skip
def test_graph_and_manifest_disagree(mini_bundle: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    """Buffers are allocated by the manifest and written by the graph."""
    edit_graph(mini_bundle, "encoder", change)
    refused(mini_bundle, message)


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\x00", b"not protobuf, but of some length"])
def test_not_an_onnx_file(mini_bundle: Path, data: bytes) -> None:
    (mini_bundle / "encoder.onnx").write_bytes(data)
    sign(mini_bundle)
    refused(mini_bundle, "is not an ONNX model|only the manifest has")


def test_weights_as_graph(mini_bundle: Path) -> None:
    edit(mini_bundle, lambda m: m["stages"][0].update(graph="model.safetensors"))
    with pytest.raises(CovisError, match=r"model.safetensors: is not an ONNX model"):
        open_bundle(mini_bundle)
