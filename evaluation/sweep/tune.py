"""Search the cheapest sparsity whose result stays near the dense one, on a user's own photos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.names import AGGREGATOR_POOLED
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.evaluation.metrics.drift import Drift, scene_drift
from covis.evaluation.sweep.predict import attention_work
from covis.evaluation.sweep.settings import layer_words
from covis.runtime.photos.choose import evenly
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.scene.scene import Scene

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
BOTH_SHARES = (0.2, 0.4, 0.65)  # fewer for "both", which combines two numbers
KEEP_RATIOS = (0.1, 0.2, 0.35, 0.5, 0.7)
ANCHORS = (5, 10, 25, 40, 60)
LAYERS = ("all", "two-thirds", "third")


@dataclass(frozen=True)
class Candidate:
    """Setting, and the share of global attention that it is expected to compute."""

    sparsity: Sparsity
    work: float


@dataclass(frozen=True)
class Trial:
    """Candidate that was run.

    Attributes:
        sparsity: Selector options.
        work: Share of the blocks of global attention computed, over all layers.
        seconds: Wall time of the pipeline.
        drift: Drift from the dense result on the photos tuned on.
        check: Drift from the dense result on other photos; None where it was not measured.
    """

    sparsity: Sparsity
    work: float
    seconds: float
    drift: Drift
    check: Drift | None = None

    def within(self, pose: float, depth: float) -> bool:
        """Return whether every drift that was measured is within the bounds."""
        return self.drift.within(pose, depth) and (
            self.check is None or self.check.within(pose, depth)
        )


@dataclass(frozen=True)
class Outcome:
    """Result of tuning.

    Attributes:
        best: Cheapest trial within the bounds; None where only dense attention is.
        trials: All trials, in the order of their runs.
        seconds_dense: Wall time of the pipeline with dense attention, on the photos tuned on.
        views: Number of photos tuned on.
        checked: Number of other photos that the best trial was checked on.
    """

    best: Trial | None
    trials: tuple[Trial, ...]
    seconds_dense: float
    views: int
    checked: int


def subsets(photos: Sequence[Photo], views: int) -> tuple[list[Photo], list[Photo]]:
    """Sample at most `views` photos evenly, and as many others between them for a check.

    Fewer than three others are too few for a check and are left out.
    """
    if len(photos) < 2:
        raise user_error(
            f"{len(photos)} photo gives nothing to tune", where="PHOTOS", hint="give 2 or more"
        )
    if views < 2:
        raise user_error(f"{views} is below 2", where="--views", hint="use 8 or more")
    first = [photos[i] for i in evenly(len(photos), views)]
    others = [photo for photo in photos if photo not in set(first)]
    return first, [others[i] for i in evenly(len(others), views)] if len(others) >= 3 else []


def candidates(
    similarity: NDArray[Any], base: Sparsity, depth: int, reference: bool, pooled: bool = True
) -> list[Candidate]:
    """List the settings to try, the cheapest first, without those that leave out nothing.

    Args:
        similarity: (M, M) similarity of the photos.
        base: Source of the other options (neighbours, choice of anchors, reference, patch order).
        depth: Number of global layers.
        reference: The model has a reference view, view 0.
        pooled: The bundle can select blocks within layers.
    """
    low = replace(base, schedule="", tau_low=None, low_precision=False, cdf=0.0)
    tried = [*_with_anchors(low, len(similarity)), *_with_thresholds(low, similarity, depth)]
    if pooled:
        tried += _with_blocks(low, similarity, depth)
    found = {s: attention_work(similarity, s, depth, reference) for s in tried}
    useful = (Candidate(sparsity, work) for sparsity, work in found.items() if work < 1.0)
    return sorted(useful, key=lambda candidate: candidate.work)


def _with_anchors(base: Sparsity, views: int) -> Iterator[Sparsity]:
    """Yield numbers of anchors below the views: by the schedule, in all layers, and light."""
    for anchors in ANCHORS:
        if anchors < views:
            by_schedule = replace(base, selector="anchors", anchors=anchors, layers="default")
            yield by_schedule
            yield replace(by_schedule, layers="all")
            yield replace(by_schedule, selector="light")


def _with_thresholds(
    base: Sparsity, similarity: NDArray[Any], depth: int, shares: Sequence[float] = SHARES
) -> Iterator[Sparsity]:
    """Yield the thresholds that keep these shares of the pairs, in each set of layers.

    They are rounded down to thousandths, so that they keep at least as many pairs.
    """
    off = similarity[~np.eye(len(similarity), dtype=bool)]
    for word in LAYERS:
        layers = layer_words(word, depth)
        for share in shares:
            exact = float(np.quantile(off, 1 - share))
            tau = float(np.clip(np.floor(1000 * exact) / 1000, 0.0, 1.0))
            yield replace(base, selector="saliency", tau=tau, layers=layers)


def _with_blocks(base: Sparsity, similarity: NDArray[Any], depth: int) -> Iterator[Sparsity]:
    """Yield the keep ratios of pooled blocks, inside all pairs and inside those of saliency."""
    pairs = tuple(_with_thresholds(base, similarity, depth, BOTH_SHARES))
    pooled = replace(base, selector="pooled")
    everywhere = [replace(pooled, layers=layer_words(word, depth)) for word in LAYERS]
    for ratio in KEEP_RATIOS:
        yield from (replace(s, keep_ratio=ratio) for s in everywhere)
        yield from (replace(s, selector="both", keep_ratio=ratio) for s in pairs)


@dataclass
class Tuner:
    """Search of the cheapest candidate whose drift from the dense result is within bounds.

    Candidates run from the cheapest on. One whose drift is far outside the bounds lets the search
    skip similar candidates that are hardly less sparse: see `_hopeless`.

    Attributes:
        pipeline: Loaded bundle.
        pose: Bound on the pose drift, in degrees.
        depth: Bound on the depth drift, as a fraction.
        on_trial: Called before each trial with the candidate, its index, and the number of
            candidates.
        progress: Called with the name of a stage, the frames done and the number of frames.
        skip_bad: Pass over photos that cannot be decoded.
    """

    pipeline: Pipeline
    pose: float
    depth: float
    on_trial: Callable[[Candidate, int, int], None] = lambda candidate, number, total: None
    progress: StageProgress | None = None
    skip_bad: bool = False

    def __call__(self, photos: Sequence[Photo], views: int) -> Outcome:
        """Tune on a subset of the photos, and check the result on another."""
        first, others = subsets(photos, views)
        manifest = self.pipeline.bundle.manifest
        base = manifest.sparsity
        self._run(first[:2], replace(base, selector="dense"))  # loads the stages
        dense, seconds = self._run(first, replace(base, selector="dense"))
        assert dense.similarity is not None
        pooled = any(stage.name == AGGREGATOR_POOLED for stage in manifest.stages)
        model = manifest.model
        found = candidates(
            dense.similarity, base, model.global_layers, model.reference_view, pooled
        )
        other_dense = self._run(others, replace(base, selector="dense"))[0] if others else None
        trials: list[Trial] = []
        for tried in self._trials(found, first, dense):
            check = None
            if other_dense is not None and tried.within(self.pose, self.depth):
                check = scene_drift(self._run(others, tried.sparsity)[0], other_dense)
            trials.append(replace(tried, check=check))
            if trials[-1].within(self.pose, self.depth):
                return Outcome(trials[-1], tuple(trials), seconds, len(first), len(others))
        return Outcome(None, tuple(trials), seconds, len(first), len(others))

    def _trials(
        self, found: Sequence[Candidate], photos: Sequence[Photo], dense: Scene
    ) -> Iterator[Trial]:
        done: list[Trial] = []
        for number, candidate in enumerate(found):
            if any(_hopeless(candidate, trial, self.pose, self.depth) for trial in done):
                continue
            self.on_trial(candidate, number, len(found))
            scene, seconds = self._run(photos, candidate.sparsity)
            assert scene.sparsity is not None
            computed, drift = scene.sparsity.attention_work, scene_drift(scene, dense)
            done.append(Trial(candidate.sparsity, computed, seconds, drift))
            yield done[-1]

    def _run(self, photos: Sequence[Photo], sparsity: Sparsity) -> tuple[Scene, float]:
        begun = time.perf_counter()
        scene = self.pipeline(
            photos,
            sparsity=sparsity,
            progress=self.progress,
            photo_options=PhotoOptions(skip_bad=self.skip_bad),
        )
        return scene, time.perf_counter() - begun


def _hopeless(candidate: Candidate, failed: Trial, pose: float, depth: float) -> bool:
    """Return whether a failed trial rules out a candidate of its kind that computes hardly more.

    Drift is about proportional to the work left out. Where a trial drifted over three times its
    bound, a candidate with the same selector and layers that leaves out more than two thirds of
    what the trial left out is therefore skipped.
    """
    same = (candidate.sparsity.selector, candidate.sparsity.layers) == (
        failed.sparsity.selector,
        failed.sparsity.layers,
    )
    worst = failed.drift.over(max(pose, 1e-12), max(depth, 1e-12))
    return same and worst > 3.0 and (1 - candidate.work) > 2 / 3 * (1 - failed.work)
