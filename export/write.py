"""Traced stages become ONNX files beside the weights they point to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from covis.export.stage import FRAMES, VIEWS, Port, StageModule
from covis.export.trace import export_graph
from covis.export.weights.convert import convert_weights
from covis.export.weights.initializers import Entry, point_at_weights, read_entries
from covis.export.weights.load import canonical

WEIGHTS = "model.safetensors"
Progress = Callable[[str], None]


def write_graphs(
    stages: Sequence[StageModule],
    weights: Path,
    folder: Path,
    model: MultiViewModel,
    tell: Progress = lambda text: None,
    max_views: int = MAX_VIEWS,
) -> tuple[Stage, ...]:
    """Export stages to `<stage>.onnx` in `folder`, pointing into `weights`, which lies there."""
    entries = read_entries(weights)
    keys = canonical(entries, model.aliases)
    records = []
    for stage in stages:
        tell(f"exporting {stage.name}")
        graph = trace(stage, entries, keys, base_passes(stage.scope, max_views))
        records.append(save(stage, graph, weights, entries, keys))
    return tuple(records)


def trace_stages(
    stages: Sequence[StageModule],
    source: Path,
    model: MultiViewModel,
    tell: Progress = lambda text: None,
    max_views: int = MAX_VIEWS,
) -> dict[str, ir.Model]:
    """Every stage as a float32 graph, by name, its parameters marked as tensors of `source`."""
    entries = read_entries(source)
    keys = canonical(entries, model.aliases)
    graphs = {}
    for stage in stages:
        tell(f"exporting {stage.name}")
        graphs[stage.name] = trace(stage, entries, keys, base_passes(stage.scope, max_views))
    return graphs


def write_narrow(
    graphs: Mapping[str, ir.Model],
    stages: Sequence[StageModule],
    source: Path,
    folder: Path,
    model: MultiViewModel,
    options: ExportOptions,
    tell: Progress = lambda text: None,
    images: NDArray[np.float32] | None = None,
) -> tuple[tuple[Stage, ...], Precision]:
    """Turn traced stages into `options.precision`; write them and the weights they want.

    In which types the weights are stored is known only when every stage has been rewritten.
    `images` (M, 3, H, W) calibrate FP8.
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
        scales = _calibrate(graphs, stages, source, keep, images, tell)
        for name, graph in graphs.items():
            added = fp8_passes(scales, keep, name, options.fp8_attention)
            run_passes(graph, added)
        passes += added
    tell(f"converting the weights to {options.precision}")
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
    tell: Progress,
) -> Scales:
    """Scales of every linear layer that can be in FP8."""
    layers: dict[str, str] = {}
    for name, model in graphs.items():
        layers |= quantizable(model.graph, partial(keep.keeps, name))
    wanted = [s for s in stages if s.name != "aggregator_pooled"]  # the aggregator's own layers
    return Scales(
        input_peaks(wanted, images, tell), weight_scales(source, sorted(set(layers.values())))
    )


def record_passes(passes: Sequence[Pass]) -> tuple[PassRecord, ...]:
    """What the manifest says of passes."""
    return tuple(PassRecord(name=each.name, version=each.version) for each in passes)


def trace(
    stage: StageModule,
    entries: Mapping[str, Entry],
    keys: Mapping[str, str],
    passes: Sequence[Pass],
) -> ir.Model:
    """A stage as a graph that went through `passes`, its parameters marked."""
    graph = export_graph(stage)
    Parameters.mark(graph.graph, entries, keys)
    run_passes(graph, passes)
    return graph


def save(
    stage: StageModule,
    graph: ir.Model,
    weights: Path,
    entries: Mapping[str, Entry],
    keys: Mapping[str, str],
) -> Stage:
    """Point a graph into `weights`, write it beside that file, and describe the stage."""
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
