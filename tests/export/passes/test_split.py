"""Tensors that are too large for TensorRT: found by their shapes, split without numeric changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from covis.export.passes import run_passes
from covis.export.passes.qkv import SplitQkv
from covis.export.passes.rows import SplitRows
from covis.export.sizes import elements, longest, too_large
from covis.export.weights.entries import read_entries
from covis.export.weights.keys import canonical
from covis.export.write import save
from tests.export.passes.precision_chain import CONFIGS, traced

VIEWS = 10


def inputs(graph: ir.Graph, views: int) -> dict[str, np.ndarray]:
    """Return a value for every input of an aggregator."""
    rng = np.random.default_rng(0)
    values: dict[str, np.ndarray] = {}
    for value in graph.inputs:
        assert value.shape is not None and value.dtype is not None and value.name is not None
        shape = [views if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
        if value.name == "probe":
            values[value.name] = np.arange(3)
        elif value.name == "layer_map":
            values[value.name] = np.zeros(shape, np.int64)
        elif value.dtype == ir.DataType.FLOAT:
            values[value.name] = rng.standard_normal(shape, np.float32)
        else:
            values[value.name] = np.full(shape, 2).astype(value.dtype.numpy())
    return values


def written(config: str, model: ir.Model, folder: Path, stage: str) -> Path:
    one = traced(config)
    weights = folder / "model.safetensors"
    if not weights.exists():
        weights.write_bytes(one.weights.read_bytes())
    entries = read_entries(weights)
    module = next(s for s in one.stages if s.name == stage)
    save(module, model, weights, entries, canonical(entries, one.model.aliases))
    return (folder / f"{stage}.onnx").rename(folder / f"{len(list(folder.iterdir()))}.onnx")


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)  # type: ignore[no-any-return]


@pytest.mark.parametrize("config", CONFIGS)
def test_parts_give_the_same_bits(config: str, tmp_path: Path) -> None:
    """The limit leaves tokens whole, and splits the packed QKV and the hidden layer."""
    original = traced(config).graphs["aggregator"]
    lengths = {"M": VIEWS, "K": 3}
    block = "info_sharing.self_attention_blocks.0" if config.startswith("map") else (
        "decoder.0" if config.startswith("pi3") else "aggregator.frame_blocks.0"
    )  # fmt: skip
    normed = next(
        n for n in original.graph if n.op_type == "LayerNormalization" and block in (n.name or "")
    )
    limit = elements(normed.outputs[0], lengths)
    assert limit is not None
    limit = int(limit * 1.1)
    passes = [SplitQkv(lengths, limit), SplitRows(lengths, limit)]
    cut = original.clone()
    before = {v.producer().op_type for v in too_large(cut.graph, lengths, limit)}  # type: ignore[union-attr]
    assert {"Gemm"} <= before
    run_passes(cut, passes)
    left = {v.producer().op_type for v in too_large(cut.graph, lengths, limit)}  # type: ignore[union-attr]
    assert not left & {"Gemm", "Gelu", "Sigmoid", "Mul"}, left
    kinds = [n.op_type for n in cut.graph]
    assert kinds.count("Gemm") > [n.op_type for n in original.graph].count("Gemm")

    whole, parts = (written(config, m.clone(), tmp_path, "aggregator") for m in (original, cut))
    onnx.checker.check_model(str(parts), full_check=True)
    for views in (2, VIEWS):
        feeds = inputs(original.graph, views)
        for a, b in zip(run(whole, feeds), run(parts, feeds), strict=True):
            np.testing.assert_array_equal(a, b)


def test_parts_of_a_weight_are_its_own_bytes(tmp_path: Path) -> None:
    cut = traced("vggt_a1").graphs["aggregator"].clone()
    run_passes(cut, [SplitQkv({"M": VIEWS, "K": 3}, 30_000)])
    path = written("vggt_a1", cut, tmp_path, "aggregator")
    entries = read_entries(tmp_path / "model.safetensors")
    model = onnx.load(str(path), load_external_data=False)
    key = "aggregator.global_blocks.0.attn.qkv.weight"
    whole, third = entries[key], entries[key].length // 3
    for which, name in enumerate("qkv"):
        (tensor,) = [t for t in model.graph.initializer if t.name == f"{key}.{name}"]
        place = {e.key: e.value for e in tensor.external_data}
        assert int(place["offset"]) == whole.offset + which * third
        assert int(place["length"]) == third
    assert key not in {t.name for t in model.graph.initializer}


def test_small_graphs_stay_as_they_are() -> None:
    graph = traced("vggt_a1").graphs["aggregator"]
    cut = graph.clone()
    run_passes(cut, [SplitQkv({"M": VIEWS, "K": 3}), SplitRows({"M": VIEWS, "K": 3})])
    assert [n.name for n in cut.graph] == [n.name for n in graph.graph]


def test_longest_is_the_last_that_fits() -> None:
    graph = traced("vggt_a1").graphs["aggregator"].graph
    limit = 1_000_000
    views = longest(graph, "M", limit)
    assert not too_large(graph, {"M": views, "K": 64}, limit)
    assert too_large(graph, {"M": views + 1, "K": 64}, limit)
