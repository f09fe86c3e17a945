"""Export a checkpoint to a bundle: graphs, weights, verification results and manifest.

The folder appears complete or not at all.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from covis.engines.bundle.bundle import check_replaceable, describe_file
from covis.engines.bundle.folder import MANIFEST
from covis.engines.bundle.manifest import (
    FORMAT,
    OPSET,
    Check,
    Manifest,
    Model,
    Precision,
    Weights,
)
from covis.engines.bundle.pixel_rule import PixelRule, RuleKind
from covis.engines.errors import user_error
from covis.engines.op import VERSION
from covis.engines.schedule import check_schedule
from covis.engines.system.atomic import atomic_folder
from covis.engines.system.files import copy_file
from covis.engines.version import __version__
from covis.export.check.drift import measure_drift
from covis.export.check.verify import refuse_failures, verify_stages
from covis.export.models import load_model, model_info
from covis.export.models.dinov2 import PATCH
from covis.export.models.multiview import MultiViewModel, patch_grid
from covis.export.models.stages import stages as model_stages
from covis.export.options import ExportOptions, read_config
from covis.export.precision.precision import base_passes, stored_dtype
from covis.export.selection.saliency import saliency_stage
from covis.export.stage import OnProgress, StageModule
from covis.export.weights.convert import convert_weights
from covis.export.weights.find import find_weights
from covis.export.weights.shards import is_index, merge_shards, weights_files
from covis.export.write import (
    WEIGHTS,
    record_passes,
    trace_stages,
    write_graphs,
    write_narrow,
)

__all__ = ["WEIGHTS", "LoadPhotos", "export_bundle", "write_graphs"]

LoadPhotos = Callable[[Path, PixelRule], NDArray[np.float32]]
"""A folder of photos and the bundle's pixel rule -> images (M, 3, H, W) in [0, 1]."""


def export_bundle(
    options: ExportOptions,
    on_progress: OnProgress = lambda text: None,
    load_photos: LoadPhotos | None = None,
) -> Manifest:
    """Export, verify and write a bundle.

    Args:
        options: Options of the export, see `ExportOptions`.
        on_progress: Called with one line of text at the start or end of each step.
        load_photos: Reads the photos of `options.calibration`, because the exporter itself opens no
            image files.

    Returns:
        The manifest as written.

    Raises:
        CovisError: wrong options or weights (2), no space or network (3), or a graph whose results
            differ from torch's (4). An export that fails leaves no files behind.
    """
    info = model_info(options.model)
    rule = PixelRule(_rule_kind(options), options.height, options.width, PATCH)
    config = read_config(options.config)
    revision = None if options.weights else info.revision
    if options.force:
        check_replaceable(options.out)
    with atomic_folder(options.out, force=options.force) as folder:
        photos = _calibration_images(options, rule, load_photos)
        source = find_weights(options.weights or info.repository, revision)
        on_progress(f"reading {source.name}")
        model = load_model(options.model, config, source)
        _note_absent_parts(model, on_progress)
        check_schedule(options.sparsity, model.global_layers)
        stages = _stages(model, rule, options)
        checks: Sequence[Check] = ()
        if options.precision == "fp32":
            weights = _place_weights(source, folder, options, on_progress)
            if options.dtype != "float32":
                # Torch uses the rounded weights too, because the stored weights are to be verified.
                model = load_model(options.model, dataclasses.asdict(model.config), weights)
                stages = _stages(model, rule, options)
            records = write_graphs(stages, weights, folder, model, on_progress, options.max_views)
            precision = Precision(passes=record_passes(base_passes("sequence")))
            if options.verify:
                checks = _verify(stages, folder, rule, on_progress)
        else:
            graphs = trace_stages(stages, source, model, on_progress, options.max_views)
            records, precision = write_narrow(
                graphs, stages, source, folder, model, options, on_progress, photos
            )
            if options.verify:
                precision = _measure(precision, stages, folder, rule, on_progress)
        files = [stage.graph for stage in records] + [WEIGHTS]
        origin = _origin(options.weights or info.repository, source)
        manifest = Manifest(
            format=FORMAT,
            covis_version=__version__,
            op_version=VERSION,
            opset=OPSET,
            model=_describe_model(options.model, model, rule),
            weights=Weights(
                file=WEIGHTS,
                source=origin,
                revision=revision,
                licence=_licence(model, origin, info.repository),
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


def _stages(
    model: MultiViewModel, rule: PixelRule, options: ExportOptions
) -> tuple[StageModule, ...]:
    """Return the model's own stages, with the saliency stage after the encoder."""
    encoder, *others = model_stages(model, rule.height, rule.width, options.max_views)
    channels = encoder.outputs[0].shape[-1]
    assert isinstance(channels, int)
    rows, columns = patch_grid(rule.height, rule.width)
    return (encoder, saliency_stage(rows, columns, channels, options.pooling), *others)


def _origin(weights: str, source: Path) -> str:
    """Return the Hugging Face id of the weights, or the name of a file of the user's own."""
    return source.name if Path(weights).expanduser().exists() else weights


def _licence(model: MultiViewModel, origin: str, repository: str) -> str:
    """Return the licence of the weights, which covis knows for published ones alone."""
    if origin == repository:
        return model.licence
    unknown = f"that of {origin}, which covis does not know; the official weights: {model.licence}"
    return model.other_licences.get(origin, unknown)


def _note_absent_parts(model: MultiViewModel, on_progress: OnProgress) -> None:
    for part, stage in model.optional_parts.items():
        if not getattr(model.config, part):
            on_progress(f"no {part} in the weights: the bundle has no stage {stage}")


def _rule_kind(options: ExportOptions) -> RuleKind:
    if options.model == "vggt":
        return "vggt_crop" if options.resize == "crop" else "vggt_pad"
    return options.model


def _place_weights(
    source: Path, folder: Path, options: ExportOptions, on_progress: OnProgress
) -> Path:
    target = folder / WEIGHTS
    if options.dtype != "float32":
        on_progress(f"converting the weights to {options.dtype}")
        convert_weights(source, target, getattr(torch, options.dtype))
        return target
    if is_index(source):
        shards = weights_files(source)
        size = sum(file.stat().st_size for file in shards)
        on_progress(f"merging {len(shards)} weights files ({size / 1e9:.2f} GB)")
        merge_shards(source, target)
        return target
    if _movable(source, options) and source.stat().st_nlink == 1:
        try:
            # A second hard link for now; the first is removed when the bundle is complete.
            os.link(source, target)
            return target
        except OSError:
            pass  # another file system: copy, then remove
    on_progress(f"copying the weights ({source.stat().st_size / 1e9:.2f} GB)")
    copy_file(source.resolve(), target)
    return target


def _movable(source: Path, options: ExportOptions) -> bool:
    """Return True if the weights may be moved: requested, one plain file, in a writable folder.

    A file of the bundle that is being replaced is removed with that bundle, and a link or a file
    among `blobs` belongs to a download cache. Shards are merged into a new file. A file with a
    second hard link is not moved, because the bundle would then reject its own weights.
    """
    return (
        options.move_weights
        and options.dtype == "float32"
        and options.precision == "fp32"
        and not is_index(source)
        and not source.is_symlink()
        and source.resolve().parent.name != "blobs"
        and os.access(source.parent, os.W_OK)
        and source.parent.resolve() != options.out.resolve()
    )


def _calibration_images(
    options: ExportOptions, rule: PixelRule, load_photos: LoadPhotos | None
) -> NDArray[np.float32] | None:
    if options.calibration is None:
        return None
    if load_photos is None:
        raise user_error(
            "photos cannot be read here",
            where="--calibration",
            hint="give export_bundle a load_photos, as `covis export` does",
        )
    return load_photos(options.calibration, rule)


def _verify(
    stages: Sequence[StageModule], folder: Path, rule: PixelRule, on_progress: OnProgress
) -> tuple[Check, ...]:
    checks = []
    current = ""
    for check in verify_stages(stages, folder, (rule.height, rule.width)):
        if check.stage != current:
            current = check.stage
            on_progress(f"verified {current} against torch")
        checks.append(check)
    refuse_failures(checks)
    return tuple(checks)


def _measure(
    precision: Precision,
    stages: Sequence[StageModule],
    folder: Path,
    rule: PixelRule,
    on_progress: OnProgress,
) -> Precision:
    """Return `precision` with its drift."""
    measured = measure_drift(stages, folder, (rule.height, rule.width), precision.name, on_progress)
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
