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
from covis.engines.layers import parse_layers
from covis.engines.options import Sparsity
from covis.evaluation.metrics.drift import Drift, scene_drift
from covis.evaluation.sweep.sweep import layer_words, work
from covis.runtime.photos.choose import evenly
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.scene.scene import Scene

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
BOTH_SHARES = (0.2, 0.4, 0.65)  # fewer for "both", which combines two numbers
KEEP_RATIOS = (0.1, 0.2, 0.35, 0.5, 0.7)
LAYERS = ("all", "two-thirds", "third")
SELECTORS = ("saliency", "pooled", "both")


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
    """List the settings to try, the cheapest first.

    Thresholds keep a tenth to four fifths of these photos' pairs. They are rounded down to
    thousandths, so that they keep at least as many.

    Args:
        similarity: (M, M) similarity of the photos.
        base: Source of the other options (neighbours, reference, patch order).
        depth: Number of global layers.
        reference: The model keeps all pairs of view 0.
        pooled: The bundle can select blocks within layers.
    """
    low = replace(base, tau_low=None, low_precision=False, cdf=0.0)
    off = similarity[~np.eye(len(similarity), dtype=bool)]
    taus = {_threshold(off, share): share in BOTH_SHARES for share in (*SHARES, *BOTH_SHARES)}
    out = []
    for word in LAYERS:
        layers = layer_words(word, depth)
        part = len(parse_layers(layers, depth)) / max(depth, 1)
        for tau, with_blocks in taus.items():
            kept = _kept(similarity, tau, low, reference)
            options = replace(low, selector="saliency", tau=tau, layers=layers)
            out.append(Candidate(options, 1 - part * (1 - kept)))
            for ratio in KEEP_RATIOS if pooled and with_blocks else ():
                options = replace(options, selector="both", keep_ratio=ratio)
                out.append(Candidate(options, 1 - part * (1 - kept * ratio)))
        for ratio in KEEP_RATIOS if pooled else ():
            options = replace(low, selector="pooled", keep_ratio=ratio, layers=layers)
            out.append(Candidate(options, 1 - part * (1 - ratio)))
    useful = {c.sparsity: c for c in out if c.work < 1.0}
    return sorted(useful.values(), key=lambda c: c.work)


def _threshold(similarities: NDArray[Any], share: float) -> float:
    """Return the tau, in thousandths, that keeps at least a share of the pairs."""
    exact = float(np.quantile(similarities, 1 - share))
    return float(np.clip(np.floor(1000 * exact) / 1000, 0.0, 1.0))


def _kept(similarity: NDArray[Any], tau: float, base: Sparsity, reference: bool) -> float:
    """Return the share of the ordered pairs that saliency keeps at a threshold."""
    kept = np.maximum(similarity, 0) >= tau
    np.fill_diagonal(kept, True)
    if base.min_neighbours:
        others = np.where(np.eye(len(kept), dtype=bool), -2.0, similarity)
        last = np.sort(others, axis=1)[:, ::-1][:, min(base.min_neighbours, len(kept)) - 1]
        kept |= others >= last[:, None]
    if reference and base.reference:
        kept[0] = kept[:, 0] = True
    return float(kept.mean())


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
            computed = work(scene, self.pipeline)["attention_work"]
            done.append(Trial(candidate.sparsity, computed, seconds, scene_drift(scene, dense)))
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
