"""The bisection of `covis compare`: which stages and layers must stay in float32."""

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
    """What must stay in float32 for the candidate to pass.

    Attributes:
        keep: for `covis export --keep-fp32`: stages, and layers as `stage/layer`; empty where
            nothing was found.
        stages: that the bisection found; None where not even all of them are enough.
        layers: by stage; None where the whole stage must be kept.
        runs: whole runs that the bisection took.
    """

    keep: tuple[str, ...]
    stages: tuple[str, ...] | None
    layers: dict[str, tuple[str, ...] | None]
    runs: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
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
        reference: the side that is taken as right.
        candidate: the side whose stages are replaced by the reference's.
        images: the photos of the comparison.
        stages: errors of each stage, from `compare_stages`.
        rotation_tolerance: largest pose drift that passes, in degrees.
        depth_tolerance: largest depth drift that passes, as a fraction.
        by_layer: also search the layers of each stage found.
        on_progress: called before each run of the pipeline.

    Raises:
        CovisError: a mixture fails to run.
    """
    from covis.evaluation.compare.stages import mixed_scene, suspects
    from covis.evaluation.compare.tensors import find_kept
    from covis.evaluation.metrics.drift import scene_drift

    expected = mixed_scene(reference, candidate, {s.stage for s in stages}, images)
    runs = 0

    def failing(kept: frozenset[str]) -> float:
        nonlocal runs
        runs += 1
        on_progress("bisection", runs, runs + 1)
        scene = mixed_scene(reference, candidate, kept, images)
        return scene_drift(scene, expected).over(rotation_tolerance, depth_tolerance)

    found = find_kept(suspects(stages), failing)
    already = candidate.pipeline.bundle.manifest.precision.keep_fp32
    if not found:
        return Findings((), found, {}, runs)
    layers: dict[str, tuple[str, ...] | None] = {}
    mixed = dict(candidate.runners)
    try:
        for stage in found if by_layer else ():
            # What was found of a stage holds while the next is searched: together they must do.
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
    """The layers of one stage that must stay in float32, the stages `whole` being kept.

    The candidate goes on with the mixture that was found, or without one where there is none.
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
