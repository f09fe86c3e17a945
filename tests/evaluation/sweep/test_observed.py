"""The change of a layer is found in the graphs of every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage
from covis.engines.bundle.verified import verified_onnx
from covis.evaluation.sweep.observed import CHANGE, observed_graph, observed_stage
from covis.runtime.backends.ort_session import Session, SessionOptions
from covis.runtime.flow import shape_of
from tests.golden_data import golden, golden_json

VIEWS, HEIGHT, WIDTH = 3, 56, 84
CONFIGS = ["vggt_a1", "pi3_a1", "mapanything_a1", "mapanything_a2"]


@pytest.fixture(params=CONFIGS)
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Stage]:
    """The folder of a tiny model's aggregator, and its stage."""
    from covis.export.exporter import write_graphs
    from covis.export.models.stages import stages
    from tests.export.models.parity import recorded_model
    from tests.traces import shared_traces

    config = request.param
    model = recorded_model(config.partition("_")[0], config)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(golden(golden_json(f"{config}.json")["weights"]).read_bytes())
    chosen = [s for s in stages(model, HEIGHT, WIDTH) if s.name == "aggregator"]
    with shared_traces():
        (stage,) = write_graphs(chosen, weights, tmp_path, model)
    return tmp_path, stage


def inputs(stage: Stage, sparse: int) -> dict[str, NDArray[Any]]:
    """Random tokens; in the layer `sparse` alone, every view attends to itself only."""
    rng = np.random.default_rng(0)
    values: dict[str, NDArray[Any]] = {}
    for tensor in stage.inputs:
        shape = [VIEWS if isinstance(size, str) else size for size in tensor.shape]
        values[tensor.name] = rng.standard_normal(shape).astype(np.float32)
    maps = np.stack([np.full((VIEWS, VIEWS), 2), 2 * np.eye(VIEWS, dtype=int)]).astype(np.int32)
    layers = np.arange(len(values["layer_map"]))
    values.update(pair_levels=maps, layer_map=(layers == sparse).astype(np.int64))
    values.update(probe=np.zeros(1, np.int64))
    return values


def change(folder: Path, stage: Stage, observed: int, sparse: int) -> float:
    """Run a stage whose layer `sparse` is sparse, and return the change of the observed layer."""
    values, port = inputs(stage, sparse), observed_stage(stage)
    sizes = {"M": VIEWS, "R": 2, "K": 1}
    outputs = {t.name: np.empty(shape_of(t, sizes), np.float32) for t in port.outputs}
    graph = verified_onnx(folder / stage.graph)
    edited = observed_graph(graph, observed, len(values["layer_map"]))
    Session(edited, port, SessionOptions(threads=1)).run(values, outputs)
    moved, size = outputs[CHANGE]
    return float(np.sqrt(moved / size))


def test_only_the_sparse_layer_changes(exported: tuple[Path, Stage]) -> None:
    folder, stage = exported
    last = len(inputs(stage, 0)["layer_map"]) - 1
    for sparse in (0, last):
        assert 0.01 < change(folder, stage, sparse, sparse) < 2
        assert change(folder, stage, last - sparse, sparse) == 0.0
