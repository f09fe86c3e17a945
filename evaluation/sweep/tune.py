"""The cheapest sparsity whose result stays near the dense one, for somebody's own photos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.engines.options import Sparsity, parse_layers
from covis.evaluation.metrics.drift import Drift, scene_drift
from covis.evaluation.sweep.sweep import layer_words, work
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.scene.scene import Scene

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
BOTH_SHARES = (0.2, 0.4, 0.65)  # fewer with "both", which has two numbers
KEEP_RATIOS = (0.1, 0.2, 0.35, 0.5, 0.7)
LAYERS = ("all", "two-thirds", "third")
SELECTORS = ("saliency", "pooled", "both")


@dataclass(frozen=True)
class Candidate:
    """A setting and the share of global attention that it is expected to compute."""

    sparsity: Sparsity
    work: float


@dataclass(frozen=True)
class Trial:
    """A candidate that was run.

    Attributes:
        sparsity: its options.
        work: share of the blocks of global attention computed, over all layers.
        seconds: of the pipeline.
        drift: against dense, on the photos tuned on.
        check: against dense, on other photos, where that was looked at.
    """

    sparsity: Sparsity
    work: float
    seconds: float
    drift: Drift
    check: Drift | None = None

    def within(self, pose: float, depth: float) -> bool:
        """Whether it stayed within the bounds wherever it was looked at."""
        return self.drift.within(pose, depth) and (
            self.check is None or self.check.within(pose, depth)
        )


@dataclass(frozen=True)
class Outcome:
    """What tuning found.

    Attributes:
        best: the cheapest trial within the bounds; None where only dense is.
        trials: all, in the order they were run.
        seconds_dense: of the pipeline with dense attention, on the photos tuned on.
        views: photos tuned on.
        checked: other photos that the best was checked on.
    """

    best: Trial | None
    trials: tuple[Trial, ...]
    seconds_dense: float
    views: int
    checked: int


def subsets(photos: Sequence[Path], views: int) -> tuple[list[Path], list[Path]]:
    """At most `views` photos, evenly, and as many others between them for a check.

    Fewer than three others make no check: they are left out.
    """
    if len(photos) < 2:
        raise user_error(
            f"{len(photos)} photo gives nothing to tune", where="PHOTOS", hint="give 2 or more"
        )
    if views < 2:
        raise user_error(f"{views} is below 2", where="--views", hint="use 8 or more")
    first = _evenly(photos, views)
    others = [photo for photo in photos if photo not in set(first)]
    return first, _evenly(others, views) if len(others) >= 3 else []


def _evenly(photos: Sequence[Path], count: int) -> list[Path]:
    if len(photos) <= count:
        return list(photos)
    return [photos[i] for i in np.round(np.linspace(0, len(photos) - 1, count)).astype(int)]


def candidates(
    similarity: NDArray[Any], base: Sparsity, depth: int, reference: bool, pooled: bool = True
) -> list[Candidate]:
    """Settings worth trying, the cheapest first.

    Thresholds are put where they keep a tenth to four fifths of these photos' pairs, rounded down
    to thousandths so that what was meant to be kept is.

    Args:
        similarity: (M, M) of the photos.
        base: other options (neighbours, reference, patch order) are taken from here.
        depth: global layers.
        reference: whether the model keeps the pairs of view 0.
        pooled: whether the bundle can select blocks within layers.
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
    """The tau, in thousandths, that keeps at least a share of the pairs."""
    exact = float(np.quantile(similarities, 1 - share))
    return float(np.clip(np.floor(1000 * exact) / 1000, 0.0, 1.0))


def _kept(similarity: NDArray[Any], tau: float, base: Sparsity, reference: bool) -> float:
    """Share of the ordered pairs that saliency keeps at a threshold."""
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
    """Runs candidates against dense.

    A setting that fails makes every sparser one of its kind (same selector and layers, fewer pairs
    and blocks) not worth a run; since the cheapest come first, failures far from the bound skip
    ahead instead: see `_hopeless`.

    Attributes:
        pipeline: a loaded bundle.
        pose: bound in degrees.
        depth: bound, relative.
        tell: told of each trial, before it runs: (sparsity, number, of how many at most).
        progress: of each run.
    """

    pipeline: Pipeline
    pose: float
    depth: float
    tell: Callable[[Candidate, int, int], None] = lambda candidate, number, total: None
    progress: StageProgress | None = None

    def __call__(self, photos: Sequence[Path], views: int) -> Outcome:
        """Tune on a subset of the photos, check on another."""
        first, others = subsets(photos, views)
        manifest = self.pipeline.bundle.manifest
        base = manifest.sparsity
        self._run(first[:2], replace(base, selector="dense"))  # loads the stages
        dense, seconds = self._run(first, replace(base, selector="dense"))
        assert dense.similarity is not None
        pooled = any(stage.name == "aggregator_pooled" for stage in manifest.stages)
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
        self, found: Sequence[Candidate], photos: Sequence[Path], dense: Scene
    ) -> Iterator[Trial]:
        done: list[Trial] = []
        for number, candidate in enumerate(found):
            if any(_hopeless(candidate, trial, self.pose, self.depth) for trial in done):
                continue
            self.tell(candidate, number, len(found))
            scene, seconds = self._run(photos, candidate.sparsity)
            computed = work(scene, self.pipeline)["attention_work"]
            done.append(Trial(candidate.sparsity, computed, seconds, scene_drift(scene, dense)))
            yield done[-1]

    def _run(self, photos: Sequence[Path], sparsity: Sparsity) -> tuple[Scene, float]:
        begun = time.perf_counter()
        scene = self.pipeline(photos, sparsity=sparsity, progress=self.progress)
        return scene, time.perf_counter() - begun


def _hopeless(candidate: Candidate, failed: Trial, pose: float, depth: float) -> bool:
    """Whether a failure says enough of a candidate of its kind that computes hardly more.

    Drift falls about in proportion to the work left out. Where a trial drifted over three times
    its bound, a candidate of the same selector and layers that leaves out more than two thirds of
    what the trial left out is not run.
    """
    same = (candidate.sparsity.selector, candidate.sparsity.layers) == (
        failed.sparsity.selector,
        failed.sparsity.layers,
    )
    worst = failed.drift.over(max(pose, 1e-12), max(depth, 1e-12))
    return same and worst > 3.0 and (1 - candidate.work) > 2 / 3 * (1 - failed.work)
