"""A checkpoint becomes a bundle: graphs, weights, verdicts and manifest, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import torch

import covis
from covis.engines.atomic import atomic_folder, copy_file
from covis.engines.bundle import MANIFEST, check_replaceable, describe_file
from covis.engines.manifest import (
    FORMAT,
    OP_VERSION,
    OPSET,
    Check,
    Manifest,
    Model,
    PassRecord,
    Precision,
    Stage,
    Weights,
)
from covis.engines.manifest import Tensor as PortRecord
from covis.engines.options import parse_layers
from covis.engines.pixel_rule import PixelRule, RuleKind
from covis.export.convert import convert_weights
from covis.export.drift import measure_drift
from covis.export.graph import export_graph
from covis.export.initializers import Entry, point_at_weights, read_entries
from covis.export.models import load_model, model_info
from covis.export.models.dinov2 import PATCH
from covis.export.models.multiview import MultiViewModel, patch_grid
from covis.export.models.stages import stages as model_stages
from covis.export.models.weights import canonical, find_weights
from covis.export.ops.translate import attach_functions
from covis.export.options import ExportOptions, read_config
from covis.export.passes import Parameters, Pass, run_passes
from covis.export.precision import (
    KeepList,
    base_passes,
    narrowing_passes,
    stored_dtype,
    stored_types,
)
from covis.export.saliency import Pooling, saliency_stage
from covis.export.stage import Port, StageModule
from covis.export.verify import refuse_failures, verify_stages

WEIGHTS = "model.safetensors"
Progress = Callable[[str], None]


def export_bundle(options: ExportOptions, tell: Progress = lambda text: None) -> Manifest:
    """Export, verify and write a bundle.

    Args:
        options: see `ExportOptions`.
        tell: told of each step in words.

    Returns:
        The manifest as written.

    Raises:
        CovisError: wrong options or weights (2), no space or network (3), or a graph that does not
            compute what torch computes (4). Nothing is left behind.
    """
    info = model_info(options.model)
    rule = PixelRule(_rule_kind(options), options.height, options.width, PATCH)
    config = read_config(options.config)
    revision = None if options.weights else info.revision
    if options.force:
        check_replaceable(options.out)
    with atomic_folder(options.out, force=options.force) as folder:
        source = find_weights(options.weights or info.repository, revision)
        tell(f"reading {source.name}")
        model = load_model(options.model, config, source)
        parse_layers(options.sparsity.layers, model.global_layers)
        stages = _stages(model, rule, options.pooling)
        checks: Sequence[Check] = ()
        if options.precision == "fp32":
            weights = _place_weights(source, folder, options, tell)
            if options.dtype != "float32":
                # What is verified must be what is stored: torch takes the rounded weights too.
                model = load_model(options.model, config, weights)
                stages = _stages(model, rule, options.pooling)
            records = write_graphs(stages, weights, folder, model, tell)
            precision = Precision(passes=record_passes(base_passes()))
            if options.verify:
                checks = _verify(stages, folder, rule, tell)
        else:
            graphs = trace_stages(stages, source, model, tell)
            records, precision = write_narrow(graphs, stages, source, folder, model, options, tell)
            if options.verify:
                precision = _measure(precision, stages, folder, rule, tell)
        files = [stage.graph for stage in records] + [WEIGHTS]
        manifest = Manifest(
            format=FORMAT,
            covis_version=covis.__version__,
            op_version=OP_VERSION,
            opset=OPSET,
            model=_describe_model(options.model, model, rule),
            weights=Weights(
                file=WEIGHTS,
                source=source.name if revision is None and source.is_file() else info.repository,
                revision=revision,
                licence=model.licence,
                dtype=stored_dtype(options),
            ),
            pixel_rule=rule,
            pooling=options.pooling,
            sparsity=options.sparsity,
            precision=precision,
            stages=records,
            checks=tuple(checks),
            files=tuple(describe_file(folder, name) for name in files),
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
    if _movable(source, options) and source.exists():
        source.unlink()
    return manifest


def _stages(model: MultiViewModel, rule: PixelRule, pooling: Pooling) -> tuple[StageModule, ...]:
    """The model's own stages, with saliency after the encoder."""
    encoder, *others = model_stages(model, rule.height, rule.width)
    channels = encoder.outputs[0].shape[-1]
    assert isinstance(channels, int)
    rows, columns = patch_grid(rule.height, rule.width)
    return (encoder, saliency_stage(rows, columns, channels, pooling), *others)


def _rule_kind(options: ExportOptions) -> RuleKind:
    if options.model == "vggt":
        return "vggt_crop" if options.resize == "crop" else "vggt_pad"
    return options.model


def _place_weights(source: Path, folder: Path, options: ExportOptions, tell: Progress) -> Path:
    target = folder / WEIGHTS
    if options.dtype != "float32":
        tell(f"converting the weights to {options.dtype}")
        convert_weights(source, target, getattr(torch, options.dtype))
        return target
    if _movable(source, options) and source.stat().st_nlink == 1:
        try:
            # A second name for now; the first goes when the bundle is complete.
            os.link(source, target)
            return target
        except OSError:
            pass  # another file system: copy, then remove
    tell(f"copying the weights ({source.stat().st_size / 1e9:.2f} GB)")
    copy_file(source.resolve(), target)
    return target


def _movable(source: Path, options: ExportOptions) -> bool:
    """Whether the weights can be moved: asked for, one plain file, in a folder we may change.

    A file of the bundle that is being replaced goes with that bundle, and links belong to a
    download cache; a second hard link would make the bundle refuse its own weights.
    """
    return (
        options.move_weights
        and options.dtype == "float32"
        and options.precision == "fp32"
        and not source.is_symlink()
        and os.access(source.parent, os.W_OK)
        and source.parent.resolve() != options.out.resolve()
    )


def write_graphs(
    stages: Sequence[StageModule],
    weights: Path,
    folder: Path,
    model: MultiViewModel,
    tell: Progress = lambda text: None,
) -> tuple[Stage, ...]:
    """Export stages to `<stage>.onnx` in `folder`, pointing into `weights`, which lies there."""
    entries = read_entries(weights)
    keys = canonical(entries, model.aliases)
    records = []
    for stage in stages:
        tell(f"exporting {stage.name}")
        graph = trace(stage, entries, keys, base_passes())
        records.append(save(stage, graph, weights, entries, keys))
    return tuple(records)


def trace_stages(
    stages: Sequence[StageModule],
    source: Path,
    model: MultiViewModel,
    tell: Progress = lambda text: None,
) -> dict[str, ir.Model]:
    """Every stage as a float32 graph, by name, its parameters marked as tensors of `source`."""
    entries = read_entries(source)
    keys = canonical(entries, model.aliases)
    graphs = {}
    for stage in stages:
        tell(f"exporting {stage.name}")
        graphs[stage.name] = trace(stage, entries, keys, base_passes())
    return graphs


def write_narrow(
    graphs: Mapping[str, ir.Model],
    stages: Sequence[StageModule],
    source: Path,
    folder: Path,
    model: MultiViewModel,
    options: ExportOptions,
    tell: Progress = lambda text: None,
) -> tuple[tuple[Stage, ...], Precision]:
    """Turn traced stages into `options.precision`; write them and the weights they want.

    In which types the weights are stored is known only when every stage has been rewritten.
    """
    keep = KeepList.parse(options.keep_fp32)
    keep.check(graphs)
    passes: list[Pass] = []
    for name, graph in graphs.items():
        passes = narrowing_passes(options.precision, keep, name)
        run_passes(graph, passes)
    tell(f"converting the weights to {options.precision}")
    target = folder / WEIGHTS
    types = stored_types(graphs.values())
    convert_weights(source, target, types, cure="use --precision bf16 or --keep-fp32")
    entries = read_entries(target)
    keys = canonical(entries, model.aliases)
    records = tuple(save(s, graphs[s.name], target, entries, keys) for s in stages)
    return records, Precision(
        name=options.precision,
        keep_fp32=keep.entries,
        passes=record_passes([*base_passes(), *passes]),
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
    )


def _record(port: Port) -> PortRecord:
    dtype = str(port.dtype).removeprefix("torch.")
    return PortRecord.model_validate({"name": port.name, "dtype": dtype, "shape": port.shape})


def _verify(
    stages: Sequence[StageModule], folder: Path, rule: PixelRule, tell: Progress
) -> tuple[Check, ...]:
    checks = []
    current = ""
    for check in verify_stages(stages, folder, (rule.height, rule.width)):
        if check.stage != current:
            current = check.stage
            tell(f"verified {current} against torch")
        checks.append(check)
    refuse_failures(checks)
    return tuple(checks)


def _measure(
    precision: Precision,
    stages: Sequence[StageModule],
    folder: Path,
    rule: PixelRule,
    tell: Progress,
) -> Precision:
    """`precision` with its drift."""
    measured = measure_drift(stages, folder, (rule.height, rule.width), precision.name, tell)
    return precision.model_copy(update=measured)


def _describe_model(name: str, model: MultiViewModel, rule: PixelRule) -> Model:
    layout = model.layout(rule.height, rule.width)
    return Model(
        name=name,
        config=dataclasses.asdict(model.config),
        patch=PATCH,
        special_first=layout.special_first,
        special_last=layout.special_last,
        trailing_tokens=layout.trailing_tokens,
        global_layers=model.global_layers,
        global_heads=model.global_heads,
        metric=model.metric,
        reference_view=model.has_reference,
    )
