"""Pooled maps too large for TensorRT: heads in groups, each with a map of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from covis.engines.bundle.verified import verified_onnx
from covis.engines.op import MOST_ELEMENTS
from covis.evaluation.sweep.observed import CHANGE, observed_graph
from covis.export.models import MultiViewModel, stages
from covis.export.selection.block_maps import pooled_head_groups
from covis.export.sizes import elements
from covis.export.stage import StageModule
from covis.export.weights.entries import read_entries
from covis.export.weights.keys import canonical
from covis.export.write import save, trace_stages
from tests.export.models.parity import recorded_model
from tests.golden_data import golden, golden_json

HEIGHT, WIDTH = 112, 112  # 64 patches a view: a key block each, and a query block for two
VIEWS = 6
CONFIGS = ["vggt_a1", "pi3_a1", "mapanything_a1"]


@pytest.mark.parametrize(
    ("heads", "views", "groups"), [(16, 100, 1), (16, 765, 1), (16, 766, 2), (16, 1000, 2),
                                   (12, 1000, 2), (12, 1300, 3), (1, 5000, 1), (7, 1200, 7)],
)  # fmt: skip
def test_fewest_groups_that_fit(heads: int, views: int, groups: int) -> None:
    patches = views * 37 * 37
    assert pooled_head_groups(heads, patches, MOST_ELEMENTS) == groups
    regions = -(-patches // 128) * -(-patches // 64)
    assert heads // groups * regions <= MOST_ELEMENTS or groups == heads


def pooled(model: MultiViewModel) -> StageModule:
    (stage,) = (s for s in stages(model, HEIGHT, WIDTH, VIEWS) if s.name == "aggregator_pooled")
    return stage


def feeds(stage: StageModule, views: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(views)
    values: dict[str, np.ndarray] = {}
    for port in stage.inputs:
        shape = [views if isinstance(n, str) else n for n in port.shape]
        values[port.name] = rng.standard_normal(shape).astype(np.float32)
    levels = 2 * (rng.random((2, views, views)) < 0.7).astype(np.int32)
    levels[:, np.arange(views), np.arange(views)] = 2
    levels[1] = 2
    layer_map = np.arange(*values["layer_map"].shape) % 2  # every second layer takes all pairs
    values.update(pair_levels=levels, layer_map=layer_map, probe=np.arange(7) * 9)
    values.update(keep_ratio=np.where(layer_map == 0, 0.5, 1).astype(np.float32))
    values.update(cdf=np.where(layer_map == 0, 0.6, 0).astype(np.float32))
    return {**values, "patch_order": np.arange(HEIGHT * WIDTH // 196)[::-1].copy()}


def run(stage: StageModule, graph: ir.Model, one: Path, views: int) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(one), providers=["CPUExecutionProvider"])
    names = {value.name for value in graph.graph.inputs}
    arrays = {name: value for name, value in feeds(stage, views).items() if name in names}
    values = session.run(None, arrays)
    return {o.name: value for o, value in zip(session.get_outputs(), values, strict=True)}


def change_of_first_layer(stage: StageModule, folder: Path, depth: int) -> np.ndarray:
    """The two sums of `covis profile` for the first layer, which is sparse; see `observed`."""
    graph = observed_graph(verified_onnx(folder / f"{stage.name}.onnx"), 0, depth)
    (folder / "observed.onnx").write_bytes(graph.read())
    session = ort.InferenceSession(
        str(folder / "observed.onnx"), providers=["CPUExecutionProvider"]
    )
    names = {value.name for value in session.get_inputs()}
    arrays = {name: value for name, value in feeds(stage, VIEWS).items() if name in names}
    return np.asarray(session.run([CHANGE], arrays)[0])


@pytest.mark.parametrize("config", CONFIGS)
def test_groups_change_no_number(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit allows one head's map, but not the maps of all heads together."""
    model = recorded_model(config.partition("_")[0], config)
    weights = golden(golden_json(f"{config}.json")["weights"])
    limit = 3 * VIEWS * VIEWS // 4  # a map of VIEWS / 2 x VIEWS regions, and half as much again
    found: list[dict[str, np.ndarray]] = []
    changes: list[np.ndarray] = []
    for name, most in (("whole", MOST_ELEMENTS), ("groups", limit)):
        monkeypatch.setitem(stages.__globals__, "MOST_ELEMENTS", most)
        stage = pooled(model)
        folder = tmp_path / name
        folder.mkdir()
        path = folder / "model.safetensors"
        path.write_bytes(weights.read_bytes())
        (graph,) = trace_stages((stage,), path, model).values()
        maps = [n.outputs[0] for n in graph.graph if n.op_type == "BlockSelect"]
        groups = 1 if most == MOST_ELEMENTS else model.global_heads
        assert len(maps) == groups * model.global_layers
        assert all((elements(level, {"M": VIEWS}) or limit + 1) <= most for level in maps)
        entries = read_entries(path)
        save(stage, graph, path, entries, canonical(entries, model.aliases))
        for views in (1, VIEWS):
            found.append(run(stage, graph, folder / f"{stage.name}.onnx", views))
        changes.append(change_of_first_layer(stage, folder, model.global_layers))
        inputs = [torch.from_numpy(v) for v in feeds(stage, VIEWS).values()]
        torch_outputs = stage.module(*inputs)
        for port, value in zip(stage.outputs, torch_outputs, strict=True):
            close = {"rtol": 1e-3, "atol": 1e-3}
            np.testing.assert_allclose(found[-1][port.name], value.numpy(), **close)
    whole, groups_ = found[:2], found[2:]
    for a, b in zip(whole, groups_, strict=True):
        assert a.keys() == b.keys()
        for port in a:
            ulps = 4 if port == "kept_mass" else 0  # a plain product, whose order may change
            np.testing.assert_array_max_ulp(a[port], b[port], maxulp=ulps)
    moved, size = changes[0]
    assert 0.001 < moved / size < 1  # a sum over the groups, as over all heads at once
    np.testing.assert_allclose(changes[1], changes[0], rtol=1e-4)
    assert 0 < whole[1]["kept_blocks"][0].mean() < 1 == whole[1]["kept_blocks"][1].mean()
