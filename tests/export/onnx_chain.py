"""A model's stages as ONNX graphs in a folder, run one after the other in ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage
from covis.engines.bundle.verified import verified_onnx
from covis.engines.system.native import ORT_LIBRARY, find_library
from covis.export.exporter import write_graphs
from covis.export.models import MultiViewModel
from covis.export.models.multiview import patch_grid
from covis.export.models.stages import stages
from covis.export.selection.saliency import saliency_stage
from covis.runtime.backends.ort_session import Session, SessionOptions
from covis.runtime.flow import shape_of
from covis.runtime.stage_io import symbol_lengths
from tests.traces import shared_traces

Values = dict[str, NDArray[Any]]
kernel_or_function = pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(False, id="function"),
        pytest.param(
            True,
            id="kernel",
            marks=pytest.mark.skipif(
                find_library(ORT_LIBRARY) is None, reason="the CPU kernel was not built"
            ),
        ),
    ],
)


class Chain:
    """The exported stages of one model and image size.

    Args:
        folder: Empty folder for graphs and weights.
        model: Model with its weights.
        weights: File that the weights were loaded from.
        height, width: Size of the images in pixels.
        without: Stages that are not exported.
        saliency: Export the stage `saliency` too, as the second.
    """

    def __init__(
        self,
        folder: Path,
        model: MultiViewModel,
        weights: Path,
        height: int,
        width: int,
        without: tuple[str, ...] = (),
        *,
        saliency: bool = False,
    ) -> None:
        shutil.copyfile(weights, folder / "model.safetensors")
        chosen = [s for s in stages(model, height, width) if s.name not in without]
        if saliency:
            channels = chosen[0].outputs[0].shape[-1]
            assert isinstance(channels, int)
            pairs = saliency_stage(*patch_grid(height, width), channels, "descriptor")
            chosen.insert(1, pairs)
        self.modules = tuple(chosen)
        self.folder = folder
        with shared_traces():
            self.stages: tuple[Stage, ...] = write_graphs(
                chosen, folder / "model.safetensors", folder, model
            )

    def run(
        self,
        images: NDArray[np.float32],
        controls: Mapping[str, Any],
        kernel: bool,
        without: str = "",
    ) -> Values:
        """Run images (M, 3, H, W) and return every output of every stage but `without`."""
        values: Values = {"images": images, **controls}
        sizes = symbol_lengths(values) | {"M": len(images), "N": len(images)}
        for stage in self.stages:
            if stage.name == without:
                continue
            graph = verified_onnx(self.folder / stage.graph)
            session = Session(graph, stage, SessionOptions(kernel=kernel))
            outputs = {
                t.name: np.empty(shape_of(t, sizes), np.dtype(t.dtype)) for t in stage.outputs
            }
            session.run(values, outputs)
            values.update(outputs)
        return values

    def nodes(self, stage: str) -> list[ir.Node]:
        """Return the nodes of a stage's graph, function bodies not included."""
        return list(ir.load(self.folder / f"{stage}.onnx").graph.all_nodes())


def controls(model: MultiViewModel, views: int, patches: int, **changes: Any) -> Values:
    """Return control inputs of a dense run, with changes."""
    values: dict[str, Any] = {
        "tau": np.zeros(1, np.float32),  # of the one map, which keeps every pair
        "pair_levels": np.full((1, views, views), 2, np.int32),
        "layer_map": np.zeros(model.global_layers, np.int64),
        "keep_ratio": np.ones(model.global_layers, np.float32),
        "cdf": np.zeros(model.global_layers, np.float32),
        "patch_order": np.arange(patches),
        "probe": np.zeros(1, np.int64),
    }
    return {name: np.asarray(value) for name, value in {**values, **changes}.items()}
