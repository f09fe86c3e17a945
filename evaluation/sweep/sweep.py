"""Run many sparsity settings on the same views, and record accuracy, time and work of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from covis.engines.errors import CovisError, ExitCode, user_error
from covis.engines.schedule import is_pooled
from covis.evaluation.accuracy.job import Job
from covis.evaluation.accuracy.results import Results
from covis.evaluation.accuracy.scoring import Record, ScoreOptions, score, work
from covis.evaluation.datasets.covisibility import true_covisibility
from covis.evaluation.datasets.truth import GroundTruth, SceneRef, sample_views
from covis.evaluation.sweep.axes import PairSource
from covis.evaluation.sweep.coverage import most_covering
from covis.evaluation.sweep.pairs import pair_map, random_score
from covis.evaluation.sweep.settings import Setting
from covis.runtime.photos.images import Images, load_images
from covis.runtime.pipeline import Pipeline

Advance = Callable[[str, str], None]
"""Called with the names of the scene and the setting before each run."""


@dataclass
class Sweep:
    """Sweep of settings over scenes; each setting has a folder, and existing results are reused.

    Attributes:
        folder: Folder of the sweep.
        pipelines: Loaded bundles, by label.
        job: Dataset, views and sampling; its bundle and sparsity are not used.
        settings: Settings to run.
        seed: Seed of random pairs.
    """

    folder: Path
    pipelines: dict[str, Pipeline]
    job: Job
    settings: Sequence[Setting]
    seed: int = 0
    results: dict[str, Results] = field(default_factory=dict)
    _warm: set[tuple[str, bool]] = field(default_factory=set)

    def __post_init__(self) -> None:
        for setting in self.settings:
            digest = self.pipelines[setting.bundle].bundle.digest()
            options = replace(self.job, sparsity=setting.sparsity).options(digest)
            extra: dict[str, Any] = {
                "share": setting.share,
                "pairs": setting.pairs,
                "pair_seed": self.seed,
                "choice": setting.choice,
            }
            where = self.folder / "settings" / setting.name
            self.results[setting.name] = Results(where, {**options, **extra})

    def missing(self, scenes: Iterable[SceneRef]) -> int:
        """Return the number of runs that are not done yet."""
        names = [scene.name for scene in scenes]
        return sum(r.get(name) is None for r in self.results.values() for name in names)

    def run(
        self, scenes: Iterable[SceneRef], advance: Advance = lambda scene, name: None
    ) -> dict[str, CovisError]:
        """Run everything that is missing, scene by scene; a failed scene does not stop the others.

        Returns:
            Error of each scene that failed, by name.
        """
        failed: dict[str, CovisError] = {}
        for ref in scenes:
            todo = [s for s in self.settings if self.results[s.name].get(ref.name) is None]
            try:
                if todo:
                    self._run_scene(ref, todo, advance)
            except CovisError as error:
                if error.code == ExitCode.ENVIRONMENT:  # a full disk would fail them all
                    raise
                failed[ref.name] = error
        return failed

    def _run_scene(self, ref: SceneRef, todo: Sequence[Setting], advance: Advance) -> None:
        """Run the settings of one scene; its photos are read once per bundle."""
        job = self.job
        truth = sample_views(job.dataset.load(ref), job.views, job.sampling, job.seed)
        for label in dict.fromkeys(setting.bundle for setting in todo):
            run = _SceneRun(self.pipelines[label], truth, job.score, self.seed)
            for setting in todo:
                if setting.bundle == label:
                    advance(ref.name, setting.name)
                    self._warm_up(setting, truth)
                    self.results[setting.name].put(run(setting))

    def _warm_up(self, setting: Setting, truth: GroundTruth) -> None:
        """Load the stages, so that the time of the first run does not contain it."""
        pipeline = self.pipelines[setting.bundle]
        depth = pipeline.bundle.manifest.model.global_layers
        key = (setting.bundle, is_pooled(setting.sparsity, depth))
        if key not in self._warm:
            photos = load_images(truth.images[:2], pipeline.bundle.manifest.pixel_rule)
            pipeline(photos, sparsity=setting.sparsity)
            self._warm.add(key)

    def records(self, setting: Setting, scenes: Iterable[SceneRef]) -> list[Record]:
        """Return the records of a setting."""
        found = (self.results[setting.name].get(scene.name) for scene in scenes)
        return [record for record in found if record is not None]


class _SceneRun:
    """One scene on one bundle; photos, similarity and true co-visibility are computed once."""

    def __init__(
        self, pipeline: Pipeline, truth: GroundTruth, options: ScoreOptions, seed: int
    ) -> None:
        self.pipeline, self.truth, self.options, self.seed = pipeline, truth, options, seed
        self.images: Images = load_images(truth.images, pipeline.bundle.manifest.pixel_rule)
        self._scores: dict[PairSource, NDArray[Any]] = {}

    def __call__(self, setting: Setting) -> Record:
        """Run a setting and return its record, like `evaluate_scene`, with the work computed."""
        begun = time.perf_counter()
        scene = self.pipeline(self.images, sparsity=setting.sparsity, **self._given(setting))
        seconds = time.perf_counter() - begun
        record = score(scene, self.truth, self.images.transforms, self.options)
        assert scene.similarity is not None and scene.sparsity is not None
        self._scores["saliency"] = scene.similarity
        layers = {"sparse_layers": len(scene.sparsity.layers)}
        return record | {"seconds": seconds, **work(scene.sparsity), **layers}

    def _given(self, setting: Setting) -> dict[str, Any]:
        """Return the pairs or anchors that are given to the pipeline, as its keyword arguments."""
        has_reference = self.pipeline.bundle.manifest.model.reference_view
        if setting.share is not None:
            score = self._score_of(setting.pairs)
            reference = has_reference and setting.sparsity.reference
            return {"pair_level": pair_map(score, setting.share, reference=reference)}
        if setting.choice == "oracle":
            seen, first = self._score_of("oracle"), 0 if has_reference else None
            return {"anchor_order": most_covering(seen, setting.sparsity.anchors, first)}
        return {}

    def _score_of(self, pairs: PairSource) -> NDArray[Any]:
        if pairs not in self._scores:
            self._scores[pairs] = self._find(pairs)
        return self._scores[pairs]

    def _find(self, pairs: PairSource) -> NDArray[Any]:
        if pairs == "random":
            return random_score(len(self.truth), self.seed)
        if pairs == "oracle":
            seen = true_covisibility(self.truth, self.images.original_sizes)
            if seen is None:
                raise user_error(
                    "knows no depth, so nobody knows which views truly see each other",
                    where=self.truth.scene.name,
                    hint="leave out oracle in --pairs and --anchor-choices, or use another dataset",
                )
            return seen
        scene = self.pipeline(self.images)  # in a resumed sweep: only the similarity is used
        assert scene.similarity is not None
        return scene.similarity
