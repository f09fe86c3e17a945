"""Bisection of `covis compare`: find the stages and layers that must stay in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covis.evaluation.compare.stages import Side, StageErrors
    from covis.runtime.photos.images import Images
    from covis.runtime.pipeline import StageProgress


@dataclass(frozen=True)
class Findings:
    """Stages and layers that must stay in float32 for the candidate to pass.

    Attributes:
        keep: Value of `covis export --keep-fp32`: stages, and layers as `stage/layer`; empty where
            nothing was found.
        stages: Names of the stages found; None where not even all of them are enough.
        layers: Names of the layers found, by stage; None where the whole stage must stay.
        runs: Number of whole runs that the bisection took.
    """

    keep: tuple[str, ...]
    stages: tuple[str, ...] | None
    layers: dict[str, tuple[str, ...] | None]
    runs: int

    def as_dict(self) -> dict[str, Any]:
        """Return the findings for JSON."""
        from covis.evaluation.compare.tensors import export_option

        return {**asdict(self), "export_option": export_option(self.keep)}


def find(
    reference: Side,
    candidate: Side,
    images: Images,
    stages: Sequence[StageErrors],
    *,
    rotation_tolerance: float,
    depth_tolerance: float,
    by_layer: bool,
    on_progress: StageProgress,
) -> Findings:
    """Bisect by stage and, with `by_layer`, by layer inside the stages that were found.

    Args:
        reference: Side that is taken as right.
        candidate: Side whose stages are replaced by the reference's.
        images: Photos of the comparison.
        stages: Errors of each stage, from `compare_stages`.
        rotation_tolerance: Largest pose drift that passes, in degrees.
        depth_tolerance: Largest depth drift that passes, as a fraction.
        by_layer: Also search the layers of each stage found.
        on_progress: Called before each run of the pipeline.

    Raises:
        CovisError: A mixture fails to run.
    """
    from covis.evaluation.compare.stages import mixed_scene, suspects
    from covis.evaluation.compare.tensors import find_kept
    from covis.evaluation.metrics.drift import scene_drift

    expected = mixed_scene(reference, candidate, {s.stage for s in stages}, images)
    runs = 0

    def failing(stages_kept: frozenset[str]) -> float:
        nonlocal runs
        runs += 1
        on_progress("bisection", runs, runs + 1)
        scene = mixed_scene(reference, candidate, stages_kept, images)
        return scene_drift(scene, expected).over(rotation_tolerance, depth_tolerance)

    found = find_kept(suspects(stages), failing)
    already = candidate.pipeline.bundle.manifest.precision.keep_fp32
    if not found:
        return Findings((), found, {}, runs)
    layers: dict[str, tuple[str, ...] | None] = {}
    mixed = dict(candidate.runners)
    try:
        for stage in found if by_layer else ():
            # The layers found so far stay while the next stage is searched, because they must be
            # enough together.
            whole = frozenset(s for s in found if not layers.get(s)) - {stage}
            layers[stage] = _layers(reference, candidate, stage, whole, failing)
    finally:
        candidate.runners.clear()
        candidate.runners.update(mixed)
    parts: list[str] = []
    for stage in found:
        inner = layers.get(stage)
        parts.extend([f"{stage}/{layer}" for layer in inner] if inner else [stage])
    on_progress("bisection", runs, runs)
    return Findings((*already, *(p for p in parts if p not in already)), found, layers, runs)


def _layers(
    reference: Side,
    candidate: Side,
    stage: str,
    whole: frozenset[str],
    failing: Callable[[frozenset[str]], float],
) -> tuple[str, ...] | None:
    """Find the layers of one stage that must stay in float32, while the stages `whole` stay, too.

    Afterwards the candidate runs the mixture that was found, or its own stage where none was.
    """
    from covis.evaluation.compare.mixed_stage import MixedStage
    from covis.evaluation.compare.tensors import find_kept

    ours, theirs = (side.pipeline.bundle for side in (reference, candidate))
    options = reference.pipeline.options
    mixed = MixedStage(ours, theirs, stage, threads=options.threads)

    def take(layers: frozenset[str]) -> None:
        session = mixed.load(layers)
        candidate.runners[stage] = lambda step, photos, values: mixed.run(
            session, photos, values, options.frames_at_once
        )

    def with_layers(layers: frozenset[str]) -> float:
        take(layers)
        return failing(whole)

    found = find_kept(mixed.layers, with_layers)
    if found:
        take(frozenset(found))
    else:
        candidate.runners.pop(stage, None)
    return found or None
