"""Write traced stages as ONNX files beside the weights that they refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from covis.engines.bundle.manifest import PassRecord, Precision, Stage
from covis.engines.bundle.manifest import Tensor as PortRecord
from covis.export.models.multiview import MultiViewModel
from covis.export.ops.translate import attach_functions
from covis.export.options import MAX_VIEWS, ExportOptions
from covis.export.passes import Parameters, Pass, run_passes
from covis.export.passes.quantize import quantizable
from covis.export.precision.calibration import MOST_PHOTOS, input_peaks, weight_scales
from covis.export.precision.precision import (
    KeepList,
    Scales,
    base_passes,
    fp8_passes,
    narrowing_passes,
    stored_types,
)
from covis.export.sizes import longest
from covis.export.stage import FRAMES, VIEWS, OnProgress, Port, StageModule
from covis.export.trace import export_graph
from covis.export.weights.convert import convert_weights
from covis.export.weights.entries import Entry, read_entries
from covis.export.weights.initializers import point_at_weights
from covis.export.weights.keys import canonical
from covis.export.weights.shards import checkpoint_entries

WEIGHTS = "model.safetensors"


def write_graphs(
    stages: Sequence[StageModule],
    weights: Path,
    folder: Path,
    model: MultiViewModel,
    on_progress: OnProgress = lambda text: None,
    max_views: int = MAX_VIEWS,
) -> tuple[Stage, ...]:
    """Export stages to `<stage>.onnx` in `folder`; they refer to `weights` in the same folder."""
    entries = read_entries(weights)
    keys = canonical(entries, model.aliases)
    records = []
    for stage in stages:
        on_progress(f"exporting {stage.name}")
        graph = trace(stage, entries, keys, base_passes(stage.scope, max_views))
        records.append(save(stage, graph, weights, entries, keys))
    return tuple(records)


def trace_stages(
    stages: Sequence[StageModule],
    source: Path,
    model: MultiViewModel,
    on_progress: OnProgress = lambda text: None,
    max_views: int = MAX_VIEWS,
) -> dict[str, ir.Model]:
    """Return every stage as a float32 graph, with parameters marked as tensors of `source`."""
    names = [name for table in checkpoint_entries(source).values() for name in table]
    keys = canonical(names, model.aliases)
    graphs = {}
    for stage in stages:
        on_progress(f"exporting {stage.name}")
        graphs[stage.name] = trace(stage, names, keys, base_passes(stage.scope, max_views))
    return graphs


def write_narrow(
    graphs: Mapping[str, ir.Model],
    stages: Sequence[StageModule],
    source: Path,
    folder: Path,
    model: MultiViewModel,
    options: ExportOptions,
    on_progress: OnProgress = lambda text: None,
    images: NDArray[np.float32] | None = None,
) -> tuple[tuple[Stage, ...], Precision]:
    """Convert traced stages to `options.precision`, and write them with their weights.

    The types of the stored weights are only known after every stage was rewritten.

    Args:
        graphs: Traced float32 graphs by stage; rewritten in place.
        stages: Stages in the order of the data flow.
        source: Weights file of the model in float32, or the index of its shards.
        folder: Folder for graphs and weights.
        model: Model that the stages belong to.
        options: Options of the export.
        on_progress: Called with one line of text at the start or end of each step.
        images: Calibration images (M, 3, H, W) in [0, 1]; required for FP8.

    Returns:
        The stages and the precision as the manifest records them.
    """
    keep = KeepList.parse(options.keep_fp32)
    keep.check(graphs)
    passes: list[Pass] = []
    for name, graph in graphs.items():
        passes = narrowing_passes(options.precision, keep, name)
        run_passes(graph, passes)
    scales = Scales()
    if options.precision == "fp8":
        assert images is not None
        scales = _calibrate(graphs, stages, source, keep, images, on_progress)
        for name, graph in graphs.items():
            added = fp8_passes(scales, keep, name, options.fp8_attention)
            run_passes(graph, added)
        passes += added
    on_progress(f"converting the weights to {options.precision}")
    target = folder / WEIGHTS
    types = stored_types(graphs.values())
    cure = "use --precision bf16, or keep that layer with --keep-fp32"
    convert_weights(source, target, types, cure, scales.weights)
    entries = read_entries(target)
    keys = canonical(entries, model.aliases)
    records = tuple(save(s, graphs[s.name], target, entries, keys) for s in stages)
    return records, Precision(
        name=options.precision,
        keep_fp32=keep.entries,
        passes=record_passes([*base_passes("sequence"), *passes]),
        calibration=0 if images is None else min(len(images), MOST_PHOTOS),
        fp8_attention=options.fp8_attention,
    )


def _calibrate(
    graphs: Mapping[str, ir.Model],
    stages: Sequence[StageModule],
    source: Path,
    keep: KeepList,
    images: NDArray[np.float32],
    on_progress: OnProgress,
) -> Scales:
    """Return the scales of every linear layer that can be computed in FP8."""
    layers: dict[str, str] = {}
    for name, model in graphs.items():
        layers |= quantizable(model.graph, partial(keep.keeps, name))
    # The pooled aggregator is left out: it has the layers and weights of the aggregator.
    distinct = [stage for stage in stages if stage.name != "aggregator_pooled"]
    return Scales(
        input_peaks(distinct, images, on_progress),
        weight_scales(source, sorted(set(layers.values()))),
    )


def record_passes(passes: Sequence[Pass]) -> tuple[PassRecord, ...]:
    """Return names and versions of passes as the manifest records them."""
    return tuple(PassRecord(name=each.name, version=each.version) for each in passes)


def trace(
    stage: StageModule,
    names: Iterable[str],
    keys: Mapping[str, str],
    passes: Sequence[Pass],
) -> ir.Model:
    """Trace a stage to a graph, mark its parameters, and run `passes` on it.

    Args:
        stage: Stage to trace.
        names: Names of the tensors of the checkpoint.
        keys: Name in the checkpoint by parameter name, where they differ.
        passes: Rewrites of the graph, in order.
    """
    graph = export_graph(stage)
    Parameters.mark(graph.graph, names, keys)
    run_passes(graph, passes)
    return graph


def save(
    stage: StageModule,
    graph: ir.Model,
    weights: Path,
    entries: Mapping[str, Entry],
    keys: Mapping[str, str],
) -> Stage:
    """Make a graph refer to `weights`, write it beside that file, and describe the stage."""
    point_at_weights(graph.graph, weights, entries, weights.name, keys)
    attach_functions(graph)
    name = f"{stage.name}.onnx"
    ir.save(graph, weights.parent / name)
    return Stage(
        name=stage.name,
        scope=stage.scope,
        graph=name,
        inputs=tuple(_record(port) for port in stage.inputs),
        outputs=tuple(_record(port) for port in stage.outputs),
        longest=longest(graph.graph, VIEWS if stage.scope == "sequence" else FRAMES),
    )


def _record(port: Port) -> PortRecord:
    dtype = str(port.dtype).removeprefix("torch.")
    return PortRecord.model_validate({"name": port.name, "dtype": dtype, "shape": port.shape})
