"""Values without a bound: each is refused in one short line, before it takes memory or time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from covis.cli import run_command
from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode, user_error
from covis.engines.limits import ERROR_LINE, GRAPH, MANIFEST_FILE, TABLE
from covis.engines.options import BackendOptions, RunOptions, Sparsity
from tests.engines.mini_bundle import edit, edit_graph, put, sign

Captured = pytest.CaptureFixture[str]
MEGABYTES = 4 << 20
SECONDS = 20  # a hundred times what it takes: the machine may be busy


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SECONDS


def refused(bundle: Path, words: str, capsys: Captured) -> None:
    assert run_command(["inspect", str(bundle)]) == ExitCode.USER
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and len(line) < 3 * ERROR_LINE.most, len(line)
    assert words in line, line[:500]


def test_the_table_is_complete_and_readable() -> None:
    assert len(TABLE) == len({limit.what for limit in TABLE}) >= 20
    assert all(limit.most > 0 and limit.what and limit.why for limit in TABLE)
    assert (str(MANIFEST_FILE), str(GRAPH)) == ("16 MiB", "256 MiB")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("sparsity.layers", "0," * MEGABYTES, "--layers: is longer than 4,096 characters"),
        ("sparsity.layers", "9" * MEGABYTES, "--layers: is longer than 4,096 characters"),
        ("sparsity.schedule", "9" * MEGABYTES, "--schedule: is longer than 4,096 characters"),
        ("sparsity.schedule", "0:x" + "y" * 4000, "--schedule: 'xyyy"),
        ("sparsity.anchors", 10**12, "is not in [1, 1,000,000]"),
        ("sparsity.anchor_seed", 10**30, "--anchor-seed: "),
        ("sparsity.selector", "x" * MEGABYTES, "is not valid at sparsity.selector"),
        ("weights.licence", "x" * MEGABYTES, "at weights.licence: String should have at most 4096"),
        ("weights.source", "x" * MEGABYTES, "at weights.source: String should have at most 4096"),
        ("weights.file", "x" * MEGABYTES, "is not valid at weights.file"),
        ("weights.file", "../" * MEGABYTES, "is not valid at weights.file"),
        ("covis_version", "x" * MEGABYTES, "at covis_version: String should have at most 4096"),
        ("stages.0.name", "x" * MEGABYTES, "at stages.0.name: String should have at most 64"),
        ("stages.0.inputs.0.shape", [1] * 9, "at stages.0.inputs.0.shape: Tuple should have at"),
        ("stages.0.inputs.0.shape", [10**12], "at stages.0.inputs.0.shape.0"),
        ("opset", 10**12, "at opset: Input should be less than or equal to"),
        ("files.0.size", 10**30, "at files.0.size"),
        ("model.global_heads", 10**12, "at model.global_heads: Input should be less"),
        ("pixel_rule.patch", 10**12, "is not valid"),
        ("sparsity.min_neighbours", 10**12, "is not in [0, 1,000,000]"),
    ],
)  # fmt: skip
def test_manifests(mini_bundle: Path, place: str, value: Any, words: str, capsys: Captured) -> None:
    put(mini_bundle, place, value)
    refused(mini_bundle, words, capsys)


@pytest.mark.parametrize("place", ["files", "stages", "stages.0.inputs", "stages.0.outputs"])
def test_long_lists(mini_bundle: Path, place: str, capsys: Captured) -> None:
    def repeat(manifest: Any) -> None:
        for part in place.split("."):
            manifest = manifest[int(part) if part.isdigit() else part]
        manifest.extend(manifest[:1] * 300)

    edit(mini_bundle, repeat)
    refused(mini_bundle, f"is not valid at {place}: Tuple should have at most", capsys)


def long_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x" * (30 << 20)


def long_tensor(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.add(name="x" * (30 << 20), data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL


def long_attribute(model: onnx.ModelProto) -> None:
    node = helper.make_node("BlockSelect", [], [], domain="covis", **{"x" * (30 << 20): 1})
    node.name = "y" * (30 << 20)
    model.graph.node.append(node)


@pytest.mark.parametrize("change", [long_input, long_tensor, long_attribute])
def test_long_names_in_graphs(
    mini_bundle: Path, change: Callable[[onnx.ModelProto], None], capsys: Captured
) -> None:
    edit_graph(mini_bundle, "encoder", change)
    refused(mini_bundle, "encoder.onnx: ", capsys)


def test_graph_that_is_no_graph_by_its_size(mini_bundle: Path, capsys: Captured) -> None:
    """As one with a text of a gigabyte; it is not even hashed."""
    with (mini_bundle / "encoder.onnx").open("r+b") as stream:
        stream.truncate(GRAPH.most + 1)  # sparse: takes no space
    put(mini_bundle, "files.0.size", GRAPH.most + 1)
    refused(mini_bundle, "encoder.onnx: is larger than 256 MiB", capsys)


def test_deep_subgraphs(mini_bundle: Path, capsys: Captured) -> None:
    data = b""
    for _ in range(2_000):  # GraphProto.node.attribute.g, around itself
        for field in (0x32, 0x2A, 0x0A):
            data = bytes([field]) + _varint(len(data)) + data
    graph = b"\x3a" + _varint(len(data)) + data
    (mini_bundle / "encoder.onnx").write_bytes(graph)
    sign(mini_bundle)
    refused(mini_bundle, "encoder.onnx: is not an ONNX model", capsys)


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sparsity(layers="1," * 10_000), "--layers: is longer than 4,096 characters"),
        (lambda: RunOptions(chunk=10**12), "--chunk: 1000000000000 is above 1,000,000"),
        (lambda: RunOptions(probes=10**12), "--probes: 1000000000000 is above 1,000,000"),
        (lambda: RunOptions(threads=10**12), "--threads: 1000000000000 is above 1,024"),
        (lambda: BackendOptions(backend="cuda", device=10**12), "--device: .* is above 1,023"),
        (lambda: BackendOptions(backend="tensorrt", trust_plan=("abc",)), "is no sha256"),
    ],
)
def test_options(make: Callable[[], object], words: str) -> None:
    with pytest.raises(CovisError, match=words) as caught:
        make()
    assert caught.value.code == ExitCode.USER and caught.value.hint


def test_a_thousand_single_layers_are_a_short_text() -> None:
    layers = ",".join(map(str, range(1_000)))
    assert Sparsity("saliency", layers=layers).layers == layers


def test_an_error_quotes_no_more_than_a_person_reads() -> None:
    error = user_error("x" * MEGABYTES, where="y" * MEGABYTES, hint="z" * MEGABYTES)
    assert len(str(error)) < 3 * ERROR_LINE.most + 100
    assert " ... " in error.what and error.what.startswith("xx") and error.what.endswith("xx")
    assert str(user_error("short", where="w", hint="h")) == "w: short; h"


def test_the_bundle_within_its_limits_opens(mini_bundle: Path) -> None:
    put(mini_bundle, "weights.licence", "x" * 4096)
    assert len(open_bundle(mini_bundle).manifest.weights.licence) == 4096
