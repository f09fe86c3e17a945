"""Photos that are encoded once, for many runs of the later stages under different schedules."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage
from covis.engines.bundle.names import AGGREGATOR, PAIR_LEVELS, role
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.evaluation.metrics.drift import Drift, scene_drift
from covis.evaluation.sweep.observed import CHANGE, observed_graph, observed_stage
from covis.runtime import flow
from covis.runtime.backends.backend import OnnxRuntimeBackend, StageSession
from covis.runtime.memory.device_array import Value
from covis.runtime.photos.images import Images
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.scene.from_heads import decode
from covis.runtime.scene.scene import Scene
from covis.runtime.stage_io import widen

DENSE = Sparsity(selector="dense")


@dataclass(frozen=True)
class Run:
    """Run of the later stages.

    Attributes:
        scene: Result, as a run of the whole pipeline gives it.
        seconds: Wall time of all stages, with that of the encoder.
        drift: Drift from the dense result of the same photos.
        change: Relative RMS change of the observed layer's attention against dense, with the same
            queries, keys and values: |a - b| / |b|. None where no layer was observed.
    """

    scene: Scene
    seconds: float
    drift: Drift
    change: float | None = None


class EncodedViews:
    """Photos whose encoder has run.

    The encoder takes its time once. The saliency stage runs again with each schedule, because it
    writes that schedule's maps.

    Attributes:
        pipeline: Loaded bundle.
        images: Photos in the model's pixels.
    """

    def __init__(
        self, pipeline: Pipeline, images: Images, progress: StageProgress | None = None
    ) -> None:
        """Run the stages before saliency, in ONNX Runtime or any other backend."""
        self.pipeline, self.images = pipeline, images
        self._encoded: dict[str, Value] = {}
        controls = pipeline.controls(DENSE, len(images))
        begun = time.perf_counter()
        for step in flow.steps(pipeline.bundle.manifest, DENSE):
            if step.stage.writes(PAIR_LEVELS):
                break
            values = {**controls, **self._encoded}
            self._encoded.update(pipeline.run_stage(step, images, values, progress or _quiet))
        self._seconds = time.perf_counter() - begun

    @cached_property
    def dense(self) -> tuple[Scene, float]:
        """Dense result, and the wall time of all stages in seconds."""
        scene, seconds, _ = self._run(DENSE, None)
        return scene, seconds

    def run(self, sparsity: Sparsity, observer: Observer | None = None) -> Run:
        """Run the later stages with selector options other than `auto`.

        Args:
            sparsity: Selector options of the run.
            observer: Layer to observe while it runs.
        """
        scene, seconds, sums = self._run(sparsity, observer)
        change = None if sums is None else _relative(*map(float, sums))
        return Run(scene, seconds, scene_drift(scene, self.dense[0]), change)

    def _run(
        self, sparsity: Sparsity, observer: Observer | None
    ) -> tuple[Scene, float, NDArray[Any] | None]:
        pipeline, bundle = self.pipeline, self.pipeline.bundle
        begun = time.perf_counter()
        values: dict[str, Value] = {
            **pipeline.controls(sparsity, len(self.images)),
            **self._encoded,
        }
        for step in flow.steps(bundle.manifest, sparsity):
            if all(tensor.name in self._encoded for tensor in step.stage.outputs):
                continue
            if observer is not None and role(step.stage.name) == AGGREGATOR:
                session = observer.session(step.stage)
                observed = replace(step, stage=session.stage)
                found = pipeline.run_stage(observed, self.images, values, _quiet, session)
            else:
                found = pipeline.run_stage(step, self.images, values, _quiet)
            values.update(found)
            for name in step.done:
                values.pop(name, None)
        host = {name: widen(pipeline.backend.memory.get(v)) for name, v in values.items()}
        scene = decode(bundle, self.images, sparsity, host)
        return scene, self._seconds + time.perf_counter() - begun, host.get(CHANGE)


@dataclass
class Observer:
    """Sessions of the aggregators that show how far one global layer is from dense attention.

    Attributes:
        pipeline: Loaded bundle, in ONNX Runtime.
        layer: Index of the global layer.
    """

    pipeline: Pipeline
    layer: int
    _sessions: dict[str, StageSession] = field(default_factory=dict)

    def session(self, stage: Stage) -> StageSession:
        """Return the session of an aggregator with the output `CHANGE`.

        Raises:
            CovisError: The backend is not ONNX Runtime, or the graph cannot be observed.
        """
        backend, bundle = self.pipeline.backend, self.pipeline.bundle
        if not isinstance(backend, OnnxRuntimeBackend):
            raise user_error(
                "runs plans, which do not show a single layer",
                where=f"--backend {self.pipeline.options.backend.backend}",
                hint="use cpu or cuda",
            )
        if stage.name not in self._sessions:
            depth = bundle.manifest.model.global_layers
            graph = observed_graph(bundle.graph(stage), self.layer, depth)
            self._sessions[stage.name] = backend.load(graph, observed_stage(stage))
        return self._sessions[stage.name]


def _relative(moved: float, size: float) -> float:
    """Return the ratio of two norms from their squares; infinity where only the second is 0."""
    if size == 0.0:
        return 0.0 if moved == 0.0 else math.inf
    return math.sqrt(moved / size)


def _quiet(stage: str, done: int, total: int) -> None:
    """Report no progress of a stage, because the search reports that of its runs."""
