"""A checkpoint becomes a bundle: graphs, weights, verdicts and manifest, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir
import torch

import covis
from covis.engines.atomic import atomic_folder, copy_file
from covis.engines.bundle import MANIFEST, check_replaceable, describe_file
from covis.engines.manifest import FORMAT, OP_VERSION, OPSET, Check, Manifest, Model, Stage, Weights
from covis.engines.manifest import Tensor as PortRecord
from covis.engines.options import parse_layers
from covis.engines.pixel_rule import PixelRule, RuleKind
from covis.export.convert import convert_weights
from covis.export.graph import export_graph
from covis.export.initializers import point_at_weights, read_entries
from covis.export.models import load_model, model_info
from covis.export.models.dinov2 import PATCH
from covis.export.models.multiview import MultiViewModel, patch_grid
from covis.export.models.stages import stages as model_stages
from covis.export.models.weights import canonical, find_weights
from covis.export.options import ExportOptions, read_config
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
        weights = _place_weights(source, folder, options, tell)
        if options.dtype != "float32":
            # What is verified must be what is stored: torch takes the rounded weights too.
            model = load_model(options.model, config, weights)
            stages = _stages(model, rule, options.pooling)
        records = write_graphs(stages, weights, folder, model, tell)
        checks = _verify(stages, folder, rule, tell) if options.verify else ()
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
                dtype=options.dtype,
            ),
            pixel_rule=rule,
            pooling=options.pooling,
            sparsity=options.sparsity,
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
        graph = export_graph(stage)
        point_at_weights(graph.graph, weights, entries, weights.name, keys)
        name = f"{stage.name}.onnx"
        ir.save(graph, folder / name)
        records.append(
            Stage(
                name=stage.name,
                scope=stage.scope,
                graph=name,
                inputs=tuple(_record(port) for port in stage.inputs),
                outputs=tuple(_record(port) for port in stage.outputs),
            )
        )
    return tuple(records)


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
