"""Run many sparsity settings on the same views, and record accuracy, time and work of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, ExitCode, user_error
from covis.engines.layers import parse_layers
from covis.engines.options import Sparsity
from covis.evaluation.accuracy.job import Job
from covis.evaluation.accuracy.results import Results
from covis.evaluation.accuracy.scoring import Record, ScoreOptions, score
from covis.evaluation.datasets.covisibility import true_covisibility
from covis.evaluation.datasets.truth import GroundTruth, SceneRef, sample_views
from covis.evaluation.sweep.axes import PairSource, SweepAxes
from covis.evaluation.sweep.pairs import pair_map, random_score
from covis.runtime.photos.images import Images, load_images
from covis.runtime.pipeline import Pipeline
from covis.runtime.scene.scene import Scene

DROPS = ("front", "back", "middle", "alternating")
Advance = Callable[[str, str], None]
"""Called with the names of the scene and the setting before each run."""


@dataclass(frozen=True)
class Setting:
    """One point of a sweep.

    Attributes:
        name: Unique name in the sweep; also the name of its folder.
        kind: Table or curve of the setting: `dense`, `tau`, `pooled`, `pairs` or `drop`.
        sparsity: Selector options.
        bundle: Label of the bundle to run.
        share: Share of the pairs to keep, chosen by `pairs` instead of a threshold.
        pairs: Score that chooses the share: similarity, random numbers or true co-visibility.
        drop: Position of the layers that a layer-drop setting makes sparse.
    """

    name: str
    kind: Literal["dense", "tau", "pooled", "pairs", "drop"]
    sparsity: Sparsity
    bundle: str
    share: float | None = None
    pairs: PairSource = "saliency"
    drop: str | None = None


def settings(axes: SweepAxes, base: Sparsity, depth: int, bundle: str = "") -> list[Setting]:
    """Return the settings of a sweep for a model of `depth` global layers; the dense one first."""
    low = replace(base, tau_low=None, low_precision=False)
    prefix = f"{bundle}/" if bundle else ""
    out = [Setting(f"{prefix}dense", "dense", replace(low, selector="dense"), bundle)]

    def add(name: str, kind: Any, sparsity: Sparsity, **more: Any) -> None:
        out.append(Setting(prefix + name, kind, sparsity, bundle, **more))

    for word in axes.layers:
        layers = layer_words(word, depth)
        for selector in axes.selectors:
            if selector == "saliency":
                for tau in axes.taus:
                    options = replace(low, selector=selector, tau=tau, layers=layers)
                    add(f"saliency-tau{tau:g}-{layers}", "tau", options)
            elif selector in ("pooled", "both"):
                for ratio in axes.keep_ratios:
                    options = replace(
                        low, selector=selector, keep_ratio=ratio, cdf=0.0, layers=layers
                    )
                    add(f"{selector}-keep{ratio:g}-{layers}", "pooled", options)
        for share in axes.shares:
            for pairs in axes.pairs:
                options = replace(low, selector="saliency", layers=layers)
                add(f"{pairs}-share{share:g}-{layers}", "pairs", options, share=share, pairs=pairs)
    if axes.drops and axes.shares:
        for drop in DROPS:
            for count in sorted({max(1, round(depth * k / 4)) for k in (1, 2, 3)}):
                layers = drop_layers(drop, count, depth)
                options = replace(low, selector="saliency", layers=layers)
                share = axes.shares[-1]
                add(f"drop-{drop}-{count}", "drop", options, share=share, drop=drop)
    return list({setting.name: setting for setting in out}.values())


def layer_words(word: str, depth: int) -> str:
    """Return `Sparsity.layers` of a word: "third" and "two-thirds" count from the first layer."""
    parts = {"third": 1, "two-thirds": 2}
    if word not in parts:
        parse_layers(word, depth)  # rejects layers that the model does not have
        return word.replace(" ", "")
    return f"0-{max(0, round(depth * parts[word] / 3) - 1)}"


def drop_layers(drop: str, count: int, depth: int) -> str:
    """List `count` layers as text: the first, the last, the middle, or evenly spread ones."""
    if drop == "alternating":
        chosen = np.unique(np.floor((np.arange(count) + 0.5) * depth / count).astype(int))
    else:
        first = {"front": 0, "back": depth - count, "middle": (depth - count) // 2}[drop]
        chosen = np.arange(first, first + count)
    return ",".join(map(str, chosen))


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
            extra = {"share": setting.share, "pairs": setting.pairs, "pair_seed": self.seed}
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
        key = (setting.bundle, setting.sparsity.selector in ("pooled", "both"))
        if key not in self._warm:
            pipeline = self.pipelines[setting.bundle]
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
        level = None
        if setting.share is not None:
            reference = self.pipeline.bundle.manifest.model.reference_view
            level = pair_map(
                self._score_of(setting.pairs),
                setting.share,
                reference=reference and setting.sparsity.reference,
            )
        begun = time.perf_counter()
        scene = self.pipeline(self.images, sparsity=setting.sparsity, pair_level=level)
        seconds = time.perf_counter() - begun
        record = score(scene, self.truth, self.images.transforms, self.options)
        assert scene.similarity is not None
        self._scores["saliency"] = scene.similarity
        return record | {"seconds": seconds, **work(scene, self.pipeline)}

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
                    "knows no depth, so nobody knows which pairs truly see each other",
                    where=self.truth.scene.name,
                    hint="pass --pairs saliency random, or use a dataset with depth",
                )
            return seen
        scene = self.pipeline(self.images)  # in a resumed sweep: only the similarity is used
        assert scene.similarity is not None
        return scene.similarity


def work(scene: Scene, pipeline: Pipeline) -> dict[str, Any]:
    """Return the work of global attention that a run computed.

    `attention_work` is the mean over all global layers of the share of blocks computed; a dense
    layer counts 1.
    """
    report = scene.sparsity
    assert report is not None
    depth = max(pipeline.bundle.manifest.model.global_layers, 1)
    kept = float(report.kept_blocks.mean()) if len(report.layers) else 1.0
    return {
        "kept_pairs": report.kept_pairs,
        "relative_blocks": report.relative_blocks,
        "kept_blocks": kept,
        "sparse_layers": len(report.layers),
        "attention_work": 1.0 - len(report.layers) / depth * (1.0 - kept),
    }


def describe(setting: Setting) -> dict[str, Any]:
    """Return a setting for JSON."""
    return {**asdict(setting), "sparsity": asdict(setting.sparsity)}
