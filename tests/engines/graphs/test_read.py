"""Graphs read without weights: signatures and external tensors."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from covis.engines.errors import CovisError
from covis.engines.graphs.read import ExternalData, Port, external_data, load_graph, signature
from tests.engines.mini_bundle import edit_graph


def test_external_data(mini_bundle: Path) -> None:
    entries = list(external_data(load_graph(mini_bundle / "encoder.onnx")))
    size = (mini_bundle / "model.safetensors").stat().st_size
    assert entries == [ExternalData("w", "model.safetensors", size - 48, 48)]
    assert not list(external_data(load_graph(mini_bundle / "saliency.onnx")))


def test_weights_stay_on_the_disk(mini_bundle: Path) -> None:
    (mini_bundle / "model.safetensors").unlink()
    load_graph(mini_bundle / "encoder.onnx")


def test_signature(mini_bundle: Path) -> None:
    inputs, outputs = signature(load_graph(mini_bundle / "saliency.onnx"))
    assert inputs == {"patch_tokens": Port("float32", (None, 4)), "tau": Port("float32", (None,))}
    assert outputs["pair_levels"] == Port("int32", (None, None, None))


def test_initializers_listed_as_inputs_are_none(mini_bundle: Path) -> None:
    def list_it(model: onnx.ModelProto) -> None:
        model.graph.input.add(name="w")
        model.graph.output[0].type.tensor_type.ClearField("shape")

    edit_graph(mini_bundle, "encoder", list_it)
    inputs, outputs = signature(load_graph(mini_bundle / "encoder.onnx"))
    assert list(inputs) == ["images"] and outputs["patch_tokens"] == Port("float32", None)


def test_no_graph(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(CovisError, match=r"x.onnx: is not an ONNX model; export the bundle again"):
        load_graph(tmp_path / "x.onnx")
