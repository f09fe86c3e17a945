"""The tiny recorded models in every precision, traced once for each model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir

from covis.engines.bundle.manifest import Precision
from covis.export.models import MultiViewModel, stages
from covis.export.models.multiview import patch_grid
from covis.export.options import ExportOptions
from covis.export.selection.saliency import saliency_stage
from covis.export.stage import StageModule
from covis.export.write import trace_stages, write_narrow
from tests.export.models.parity import recorded_model
from tests.golden_data import golden, golden_json
from tests.traces import shared_traces

CONFIGS = ["vggt_a1", "pi3_a1", "mapanything_a1"]
HEIGHT, WIDTH = 42, 56
PHOTOS = np.random.default_rng(1).random((3, 3, HEIGHT, WIDTH), np.float32)
SKIPPED = "aggregator_pooled"  # the aggregator again, and as long to trace


@dataclass(frozen=True)
class Traced:
    """Stages of a model and their float32 graphs, which no test may change."""

    model: MultiViewModel
    weights: Path
    stages: tuple[StageModule, ...]
    graphs: dict[str, ir.Model]


@cache
def traced(config: str, pooled: bool = False) -> Traced:
    """Return the stages of a golden configuration, with or without the pooled aggregator."""
    model = recorded_model(config.partition("_")[0], config)
    weights = golden(golden_json(f"{config}.json")["weights"])
    encoder, *others = (s for s in stages(model, HEIGHT, WIDTH) if pooled or s.name != SKIPPED)
    channels = encoder.outputs[0].shape[-1]
    assert isinstance(channels, int)
    saliency = saliency_stage(*patch_grid(HEIGHT, WIDTH), channels, "descriptor")
    chosen = (encoder, saliency, *others)
    with shared_traces():
        return Traced(model, weights, chosen, trace_stages(chosen, weights, model))


def narrowed(
    config: str,
    folder: Path,
    precision: str,
    keep: str = "heads",
    *,
    pooled: bool = False,
    **options: object,
) -> tuple[dict[str, ir.Model], Precision]:
    """Return that model in a narrow precision: its graphs as written, and the record."""
    one = traced(config, pooled)
    graphs = {name: model.clone() for name, model in one.graphs.items()}
    images = None
    if precision == "fp8":
        options["calibration"] = folder
        images = PHOTOS
    chosen = ExportOptions(
        one.model.name,  # type: ignore[arg-type]
        folder,
        precision=precision,  # type: ignore[arg-type]
        keep_fp32=keep,
        **options,  # type: ignore[arg-type]
    )
    _, record = write_narrow(
        graphs, one.stages, one.weights, folder, one.model, chosen, images=images
    )
    return {name: ir.load(folder / f"{name}.onnx") for name in graphs}, record
