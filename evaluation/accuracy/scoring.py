"""Score one scene against its ground truth: every metric, as one flat record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covis.engines.errors import user_error
from covis.evaluation.datasets.truth import GroundTruth
from covis.evaluation.metrics.clouds import closest_points, compare, thinned
from covis.evaluation.metrics.depth import depth_errors
from covis.evaluation.metrics.pose import (
    THRESHOLDS,
    Float64,
    auc_of_histogram,
    histogram,
    pair_errors,
    undirected,
)
from covis.evaluation.metrics.trajectory import absolute_error, align, relative_error
from covis.runtime.scene.similarity import umeyama

if TYPE_CHECKING:
    from covis.engines.options import Sparsity
    from covis.runtime.photos.images import Images
    from covis.runtime.photos.preprocess import PixelTransform
    from covis.runtime.pipeline import Pipeline, StageProgress
    from covis.runtime.scene.scene import Scene, SparsityReport

Metric = Literal["pose", "depth", "points"]
METRICS: tuple[Metric, ...] = ("pose", "depth", "points")

Record = dict[str, Any]
"""Record of JSON values; a metric that is not defined for a scene is None."""

# Where the dataset defines no distance, ICP ignores points farther than this share of the scene's
# radius (root mean square distance from its middle).
_RELATIVE_DISTANCE = 0.1
_ALIGN_LIMIT = 200_000
# Larger clouds are sampled down, because their KD-trees would take gigabytes.
_CLOUD_LIMIT = 2_000_000


@dataclass(frozen=True)
class ScoreOptions:
    """Metrics to measure, and their options.

    Attributes:
        metrics: Kinds of metrics: `pose` (AUC, ATE, RPE), `depth` (AbsRel, delta), `points`
            (accuracy, completeness, normals, chamfer; requires scipy).
        source: Source of the points: `depth` with the cameras, or the model's own `points`.
        max_points: Number of points of each cloud whose distance to the whole other cloud is
            taken, drawn at random (seeded).
        icp: Rounds of iterated closest points after the alignment; 0 leaves it out.
    """

    metrics: tuple[Metric, ...] = METRICS
    source: Literal["depth", "points"] = "depth"
    max_points: int = 20_000
    icp: int = 20

    def __post_init__(self) -> None:
        if not self.metrics or set(self.metrics) - set(METRICS):
            raise user_error(
                f"{' '.join(self.metrics) or 'nothing'} cannot be measured",
                where="--metrics",
                hint=f"use some of {', '.join(METRICS)}",
            )
        if self.max_points < 100:
            raise user_error(f"{self.max_points} is below 100", where="--max-points")
        if self.icp < 0:
            raise user_error(f"{self.icp} is negative", where="--icp", hint="0 leaves it out")


def evaluate_scene(
    pipeline: Pipeline,
    truth: GroundTruth,
    sparsity: Sparsity | None = None,
    options: ScoreOptions | None = None,
    *,
    images: Images | None = None,
    progress: StageProgress | None = None,
) -> Record:
    """Reconstruct the views of a ground truth and score the result.

    Args:
        pipeline: Loaded bundle.
        truth: Ground truth of one scene, with the views to use (`truth.sample_views`).
        sparsity: Selector options; by default those of the bundle.
        options: Metrics to measure, and their options.
        images: Photos of the truth, loaded by `load_images` for this bundle; by default they are
            loaded here. (A sweep runs the same views many times.)
        progress: Called with the name of a stage, the frames done and the number of frames.

    Returns:
        `score`, and `seconds` (wall time of the pipeline, photos loaded before), `kept_pairs`,
        `relative_blocks` (of frame pairs), `kept_blocks` (mean over sparse layers and heads) and
        `attention_work` (share of dense global attention, over all layers).

    Raises:
        CovisError: The pipeline fails, or two options contradict each other.
    """
    from covis.runtime.photos.images import load_images

    if images is None:
        images = load_images(truth.images, pipeline.bundle.manifest.pixel_rule)
    begun = time.perf_counter()
    scene = pipeline(images, sparsity=sparsity, progress=progress)
    seconds = time.perf_counter() - begun
    record = score(scene, truth, images.transforms, options)
    report = scene.sparsity
    assert report is not None
    return record | {
        "seconds": seconds,
        **work(report),
    }


def work(report: SparsityReport) -> Record:
    """Return the parts of global attention that a run computed, as JSON values."""
    return {
        "kept_pairs": report.kept_pairs,
        "relative_blocks": report.relative_blocks,
        "kept_blocks": float(report.kept_blocks.mean()) if report.layers else 1.0,
        "attention_work": report.attention_work,
    }


def score(
    scene: Scene,
    truth: GroundTruth,
    transforms: Sequence[PixelTransform],
    options: ScoreOptions | None = None,
) -> Record:
    """Compute all metrics of one scene.

    Args:
        scene: Scene of the M views of `truth`, in the same order.
        truth: Ground truth of the dataset.
        transforms: Map of each photo's pixels to the model's pixels (`Images.transforms`).
        options: Metrics to measure, and their options.

    Returns:
        `scene`, `group`, `views`, `dropped_views`, and the metrics of each kind that
        the truth allows; docs/reference/datasets-and-metrics.md lists the names. `histograms`
        contain the counts of pair errors by threshold, for pooling AUC over scenes.
    """
    chosen = options or ScoreOptions()
    if len(scene) != len(truth):
        raise user_error(
            f"has {len(scene)} views, its ground truth {len(truth)}", where=truth.scene.name
        )
    record: Record = {
        "scene": truth.scene.name,
        "group": truth.scene.group,
        "views": len(truth),
        "dropped_views": truth.dropped,
    }
    if "pose" in chosen.metrics:
        record |= score_pose(scene.extrinsics, truth)
    pixels = None
    if {"depth", "points"} & set(chosen.metrics) and truth.depth is not None:
        pixels = _pixels(scene, truth, transforms, chosen)
    if "depth" in chosen.metrics and pixels is not None:
        names = ("abs_rel", "delta_1.25")
        errors = depth_errors(pixels.predicted, pixels.depth)
        record |= {name: _finite(value) for name, value in zip(names, errors, strict=True)}
        record["depth_pixels"] = len(pixels.depth)
    if "points" in chosen.metrics:
        record |= _points(scene, truth, pixels, chosen)
    return record


def score_pose(predicted: ArrayLike, truth: GroundTruth) -> Record:
    """Compute the metrics of the cameras alone: AUC, median angles, ATE and RPE.

    Args:
        predicted: (M, 3, 4) world to camera.
        truth: Ground truth of the same views.
    """
    predicted = np.asarray(predicted, np.float64)
    rotation, translation = pair_errors(predicted, truth.extrinsics)
    published = np.maximum(rotation, undirected(translation))
    # Folding its error of 180 degrees would make a camera that is not finite correct.
    lost = ~np.isfinite(predicted).all(axis=(1, 2))
    i, j = np.triu_indices(len(truth), 1)
    published = np.where(lost[i] | lost[j], 180.0, published)
    strict = np.maximum(rotation, translation)
    histograms = {str(t): histogram(published, t).tolist() for t in THRESHOLDS}
    strict_histograms = {str(t): histogram(strict, t).tolist() for t in THRESHOLDS}
    order = np.argsort(truth.frames, kind="stable")
    step, turn = relative_error(predicted[order], truth.extrinsics[order])
    record: Record = {"pairs": len(rotation), "lost_cameras": int(lost.sum())}
    for t in THRESHOLDS:
        record[f"auc{t}"] = auc_of_histogram(histograms[str(t)], len(rotation))
        record[f"auc{t}_directed"] = auc_of_histogram(strict_histograms[str(t)], len(rotation))
    record |= {
        "rotation_median": float(np.median(rotation)),
        "translation_median": float(np.median(translation)),
        "ate": _finite(absolute_error(predicted, truth.extrinsics)),
        "rpe_translation": _finite(step),
        "rpe_rotation": _finite(turn),
        "histograms": histograms,
        "histograms_directed": strict_histograms,
    }
    return record


@dataclass(frozen=True)
class _Pixels:
    """Valid pixels of the model with a known depth, of all views one after the other.

    Attributes:
        predicted: (N,) predicted z-depth.
        depth: (N,) true z-depth.
        points: (N, 3) predicted points in the model's world; may contain NaN.
        true_points: (N, 3) points in the world of the truth; NaN where the truth has no intrinsics.
    """

    predicted: Float64
    depth: Float64
    points: Float64
    true_points: Float64


def _pixels(
    scene: Scene, truth: GroundTruth, transforms: Sequence[PixelTransform], options: ScoreOptions
) -> _Pixels:
    from covis.runtime.scene import geometry

    assert truth.depth is not None
    centers = geometry.pixel_centers(*scene.image_size).reshape(-1, 2)
    points = _own_points(scene, options) if "points" in options.metrics else None
    parts: list[tuple[Float64, ...]] = []
    for i, sampler in enumerate(truth.depth):
        valid = np.flatnonzero(scene.valid[i])
        photo = transforms[i].pixels_to_original(centers[valid])
        depth = sampler(photo)
        known = np.isfinite(depth) & (depth > 0)
        own = true_points = np.full((int(known.sum()), 3), np.nan)
        if points is not None:
            own = points[i].reshape(-1, 3)[valid[known]].astype(np.float64)
        if truth.intrinsics is not None:
            true_points = geometry.unproject(
                photo[known], depth[known], truth.intrinsics[i], truth.extrinsics[i]
            )
        predicted = scene.depth[i].ravel()[valid[known]].astype(np.float64)
        parts.append((predicted, depth[known], own, true_points))
    return _Pixels(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _own_points(scene: Scene, options: ScoreOptions) -> NDArray[Any]:
    if options.source == "depth":
        return scene.points_from_depth()
    if scene.points is None:
        raise user_error("this model has no points of its own", where="--source", hint="use depth")
    return np.asarray(scene.points)


def _points(
    scene: Scene, truth: GroundTruth, pixels: _Pixels | None, options: ScoreOptions
) -> Record:
    """Align the points, then compare them with the scan or the true points of the same pixels."""
    if pixels is not None and truth.intrinsics is not None:
        both = np.isfinite(pixels.points).all(axis=1)
        predicted, true = pixels.points[both], pixels.true_points
        if len(predicted) < 3:
            return {}
        pair = np.linspace(0, len(predicted) - 1, min(len(predicted), _ALIGN_LIMIT)).astype(int)
        alignment = umeyama(predicted[pair], true[both][pair])
        reference = true if truth.points is None else truth.points
    elif truth.points is not None:
        own = _own_points(scene, options)
        predicted = own[scene.valid & np.isfinite(own).all(axis=-1)].astype(np.float64)
        alignment, reference = align(scene.extrinsics, truth.extrinsics), truth.points
    else:
        return {}
    predicted = alignment.points(thinned(predicted, _CLOUD_LIMIT))
    reference = thinned(np.asarray(reference, np.float64), _CLOUD_LIMIT)
    if not len(predicted) or not len(reference):
        return {}
    radius = float(np.sqrt(reference.var(axis=0).sum()))
    distance = truth.max_distance or _RELATIVE_DISTANCE * radius
    refined = closest_points(predicted, reference, distance, options.icp)
    errors = compare(
        refined.points(predicted),
        reference,
        queries=options.max_points,
        max_distance=distance if truth.cut_distances else np.inf,
        judged=truth.judged,
        demanded=truth.demanded,
    )
    return {name: _finite(value) for name, value in vars(errors).items()}


def _finite(value: float) -> float | None:
    """Replace NaN by None, because JSON has no NaN: a metric that is not defined is null."""
    return value if np.isfinite(value) else None
