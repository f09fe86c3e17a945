"""`covis compare`: a candidate against a reference, stage by stage and end to end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from covis.commands.arguments import (
    BundlePath,
    ChoiceArguments,
    MeasureArguments,
    Photos,
    SparsityArguments,
    default,
)
from covis.engines.errors import user_error
from covis.engines.options import BackendOptions, RunOptions, Selector, SparsityChanges
from covis.runtime.photos.options import PhotoOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from covis.evaluation.compare.bisect import Findings
    from covis.evaluation.compare.scenes import SceneErrors
    from covis.evaluation.compare.stages import Side, StageErrors
    from covis.runtime.photos.images import Images


@dataclass(frozen=True)
class CompareCommand:
    """Compare a bundle's backends, precisions or selectors on photos, stage by stage.

    Attributes:
        bundle: Bundle of the reference, in float32: a folder that `covis export` wrote.
        photos: Folder of photos and videos, or the files themselves.
        candidate: Bundle to compare, of the same model and image size.
        reference_backend: Runtime of the reference: `onnxruntime` on the CPU, or `torch`, which
            requires covis[export].
        reference_selector: Selector of the reference; `dense` shows what sparsity costs.
        views: Number of photos to use, from the first; 0 takes all.
        rotation_tolerance: Largest pose drift that passes, in degrees: the change of a relative
            rotation of two cameras, or of a relative position as seen from the median depth.
        depth_tolerance: Largest depth drift that passes: the mean relative change of the depth of
            a view.
        bisect: Find the stages that must stay in float32, where a tolerance is exceeded.
        by_layer: Find the layers inside those stages, too; requires a candidate bundle.
        out: JSON file for the report.
        choice: Photos and video frames to compare on.
        run: How the stages run, and the backend of the candidate.
        sparsity: Selector options of both sides; options that are not given keep the values of the
            reference's bundle.
    """

    bundle: BundlePath
    photos: Photos
    candidate: Annotated[Path | None, default("the reference itself")] = None
    reference_backend: Literal["onnxruntime", "torch"] = "onnxruntime"
    reference_selector: Annotated[Selector | None, default("the candidate's")] = None
    views: int = 0
    rotation_tolerance: float = 1.0
    depth_tolerance: float = 0.01
    bisect: bool = True
    by_layer: bool = False
    out: Annotated[Path | None, default("no file")] = None
    choice: ChoiceArguments = field(default_factory=PhotoOptions)
    run: MeasureArguments = field(default_factory=RunOptions)
    sparsity: SparsityArguments = field(default_factory=SparsityChanges)

    def __post_init__(self) -> None:
        for name in ("rotation_tolerance", "depth_tolerance"):
            if not getattr(self, name) > 0:
                raise user_error(
                    f"{getattr(self, name)} is not above 0", where=f"--{name.replace('_', '-')}"
                )
        if self.views < 0:
            raise user_error(f"{self.views} is negative", where="--views", hint="0 takes all")
        if self.by_layer and self.candidate is None:
            raise user_error(
                "needs a candidate bundle, whose layers can be mixed with the reference's",
                where="--by-layer",
                hint="pass --candidate BUNDLE",
            )


def compare(command: CompareCommand) -> None:
    """Compare, print a table, and write the JSON file.

    Raises:
        CovisError: A tolerance is exceeded (exit code 4), or an option is wrong.
    """
    from rich.console import Console

    from covis.commands.run import progress_bar, warn
    from covis.engines.errors import numerics_error
    from covis.engines.schedule import resolve
    from covis.engines.system.atomic import atomic_file, check_file_target
    from covis.evaluation.compare.bisect import find
    from covis.evaluation.compare.scenes import scene_errors
    from covis.evaluation.compare.stages import check_sides, compare_stages
    from covis.evaluation.compare.tensors import export_option

    if command.out is not None:
        check_file_target(command.out)
    console = Console(stderr=True, highlight=False)
    with console.status("checking the bundles"):
        reference, candidate = sides(command)
    images = _images(command, reference)
    for side in (reference, candidate):
        side.sparsity = resolve(side.sparsity, len(images))
    check_sides(reference, candidate)
    warn(console, images.notes)
    with progress_bar(console) as on_progress:
        stages, scene, expected = compare_stages(reference, candidate, images, on_progress)
    errors = scene_errors(scene, expected)
    over = errors.drift.over(command.rotation_tolerance, command.depth_tolerance)
    finite = not any(e.non_finite for stage in stages for e in stage.end_to_end)
    passed = finite and over <= 1.0
    _print(stages, errors)
    found: Findings | None = None
    if not passed and command.bisect and reference.sparsity == candidate.sparsity:
        with progress_bar(console) as on_progress:
            found = find(
                reference,
                candidate,
                images,
                stages,
                rotation_tolerance=command.rotation_tolerance,
                depth_tolerance=command.depth_tolerance,
                by_layer=command.by_layer,
                on_progress=on_progress,
            )
    report = {
        "reference": _describe(reference, command.reference_backend),
        "candidate": _describe(candidate, "own"),
        "views": len(images),
        "tolerance": {
            "rotation_deg": command.rotation_tolerance,
            "depth_rel": command.depth_tolerance,
        },
        "passed": passed,
        "scene": errors.as_dict(),
        "stages": [stage.as_dict() for stage in stages],
        "bisection": found.as_dict() if found else None,
    }
    if command.out is not None:
        with atomic_file(command.out) as stream:
            stream.write(json.dumps(report, indent=1).encode() + b"\n")
    if passed:
        return
    kept = found.keep if found else ()
    cure = f"export the candidate with {export_option(kept)}" if kept else _cure(found)
    raise numerics_error(
        f"the candidate moves cameras by up to {errors.drift.pose_deg:.3g} degrees and changes "
        f"depth by {errors.drift.depth_rel:.2%} ({over:.3g} times the tolerance)"
        + ("" if finite else "; some of its numbers are not finite"),
        where=f"{scene.names[0]} and {len(images) - 1} more photos",
        hint=cure,
    )


def sides(command: CompareCommand) -> tuple[Side, Side]:
    """Open both sides, with selector options that may be `auto`: (reference, candidate).

    Raises:
        CovisError: A bundle is not complete; this machine lacks the backend.
    """
    from covis.evaluation.compare.stages import Side
    from covis.runtime.pipeline import load

    first = load(command.bundle, replace(command.run, backend=BackendOptions()))
    second = load(command.candidate or command.bundle, command.run)
    chosen = command.sparsity.apply(first.bundle.manifest.sparsity)
    ours = chosen
    if command.reference_selector is not None:
        ours = SparsityChanges(selector=command.reference_selector).apply(chosen)
    reference, candidate = Side(first, ours), Side(second, chosen)
    if command.reference_backend == "torch":
        from covis.commands.compare_torch import torch_runners

        reference.runners.update(torch_runners(first.bundle, first.options.frames_at_once))
    return reference, candidate


def _images(command: CompareCommand, side: Side) -> Images:
    from covis.commands.run import named
    from covis.runtime.photos.selection import select_photos

    selection = select_photos(named(command.photos), command.choice)
    return selection.first(command.views).load(side.pipeline.bundle.manifest.pixel_rule)


def _describe(side: Side, kind: str) -> dict[str, Any]:
    bundle = side.pipeline.bundle
    return {
        "bundle": str(bundle.path),
        "digest": bundle.digest(),
        "precision": bundle.manifest.precision.name,
        "weights": bundle.manifest.weights.dtype,
        "sparsity": asdict(side.sparsity),
        **({"backend": "torch"} if kind == "torch" else side.pipeline.backend.about()),
    }


def _print(stages: Sequence[StageErrors], errors: SceneErrors) -> None:
    """Print one row for each output: errors of its stage alone, and of all stages up to it."""
    from rich.console import Console
    from rich.table import Table

    columns = (
        "stage",
        "output",
        "alone: rel",
        "end to end: abs",
        "rel",
        "p99",
        "rank",
        "worst view",
    )
    table = Table(*columns, box=None)
    for stage in stages:
        for alone, whole in zip(stage.alone, stage.end_to_end, strict=True):
            table.add_row(
                stage.stage,
                whole.tensor,
                f"{alone.rel_l2:.1e}",
                f"{whole.max_abs:.1e}",
                f"{whole.rel_l2:.1e}" + (" NOT FINITE" if whole.non_finite else ""),
                f"{whole.p99_rel:.1e}",
                f"{whole.rank:.1e}",
                "" if whole.worst_image is None else str(whole.worst_image),
            )
    console: Console = Console(highlight=False, width=120)
    console.print(table)
    drift = errors.drift
    console.print(
        f"cameras turn by {drift.rotation_deg:.2e} degrees at most, "
        f"{drift.rotation_deg_mean:.2e} on average, and shift by {drift.shift_deg:.2e} degrees as "
        "seen from the scene's median depth",
        markup=False,
        soft_wrap=True,
    )
    console.print(
        f"depth changes by {drift.depth_rel:.3%} in the worst view, "
        f"{drift.depth_rel_mean:.3%} on average",
        markup=False,
    )


def _cure(found: Findings | None) -> str:
    if found is not None and found.stages is None:
        return "no choice of float32 stages is enough: look at the stage with the largest own error"
    return "see the table; use a larger tolerance or denser options"
