"""Build the plans of a bundle's stages, and prove each one before it enters the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from covis.engines.bundle.bundle import open_bundle
from covis.engines.system.atomic import check_file_target
from covis.engines.system.gpu import Gpu, find_gpu
from covis.engines.tensorrt.build.engine import EngineRequest, build_engine
from covis.engines.tensorrt.build.layer_evidence import preserve_layers, refused_layers_file
from covis.engines.tensorrt.build.options import BuildOptions
from covis.engines.tensorrt.build.progress import Phases, SilentPhases
from covis.engines.tensorrt.build.requests import (
    PlanRequest,
    onnx_request,
    plan_folder,
    refuse_float32_attention,
    stage_requests,
)
from covis.engines.tensorrt.build.timing_cache import TimingCache
from covis.engines.tensorrt.module import (
    LogSink,
    import_tensorrt,
    load_plugin,
    logger,
    plugin_digest,
)
from covis.engines.tensorrt.parser_graph.parser_graph import COPY_VERSION, for_tensorrt
from covis.engines.tensorrt.plans.cache import (
    EngineInfo,
    OnProgress,
    PlanCache,
    Write,
    file_lock,
    locked,
    write_plan,
)
from covis.engines.tensorrt.plans.record import PlanInputs, PlanRecord
from covis.engines.tensorrt.proof.inspector import inspect_plan, prove, use_gpu

TIMING = "timing.cache"

OnPlan = Callable[[PlanRecord, Path, bool], None]
"""Called after each stage with its record, the folder of its plan, and whether it was built now."""


def build(
    options: BuildOptions,
    *,
    on_progress: OnProgress = lambda text: None,
    on_plan: OnPlan = lambda record, folder, built: None,
    on_log: LogSink | None = None,
    phases: Phases | None = None,
) -> tuple[PlanRecord, ...]:
    """Build the TensorRT engines of a bundle, and prove each from its layer information.

    A plan that is in the cache already, built from the same inputs, is not built again.

    Args:
        options: Bundle or ONNX file, its stages, and the ranges of the dynamic dimensions.
        on_progress: Called with one line of text for each step.
        on_plan: See `OnPlan`.
        on_log: Called with severity and text of each message of TensorRT itself.
        phases: Receives TensorRT's own build phases.

    Returns:
        The record of each plan, in the order of the bundle's stages.

    Raises:
        CovisError: wrong options or a stage without a kernel (2); no GPU, TensorRT or plugin (3);
            an engine that does not compute what was requested (4). Plans of earlier stages stay.
    """
    bundle = open_bundle(options.bundle) if options.bundle is not None else None
    requests = stage_requests(bundle, options) if bundle is not None else (onnx_request(options),)
    refuse_float32_attention(requests)
    for request in requests:
        if request.layers is not None:
            check_file_target(request.layers)
    builder = PlanBuilder(options, on_progress, phases)
    if on_log is not None:
        logger(on_log)
    records = []
    for request in requests:
        if bundle is not None:
            folder = plan_folder(bundle, options)
            record, built = builder.into_cache(request, folder)
            on_plan(record, folder, built)
            records.append(record)
        elif options.saveEngine is not None:
            record = builder.into_file(request, options.saveEngine)
            on_plan(record, options.saveEngine.parent, True)
            records.append(record)
    return tuple(records)


class PlanBuilder:
    """Builds plans on one GPU, with one plugin; starts TensorRT only if there is a GPU."""

    def __init__(
        self, options: BuildOptions, on_progress: OnProgress, phases: Phases | None = None
    ) -> None:
        """Find GPU, TensorRT and plugin.

        Raises:
            CovisError: one of them is missing (exit code 3).
        """
        self.options = options
        self._on_progress = on_progress
        self._phases = phases or SilentPhases()
        # The GPU first: without a driver, TensorRT 10.6 ends the process instead of failing.
        self._gpu: Gpu = find_gpu(options.device)
        self._tensorrt = str(import_tensorrt().__version__)
        self._plugin: str | None = None

    def inputs(self, request: PlanRequest) -> PlanInputs:
        """Collect everything that determines the plan."""
        return PlanInputs(
            stage=request.stage,
            precision=request.precision,
            graph=request.graph_sha256,
            parser_copy=COPY_VERSION,
            weights=request.weights_sha256,
            plugin=self._plugin_digest() if request.uses_plugin else None,
            tensorrt=self._tensorrt,
            cuda=self._gpu.cuda,
            driver_branch=self._gpu.driver_branch,
            gpu=self._gpu.name,
            compute_capability=self._gpu.compute_capability,
            profile=request.profile,
            options=self.options.engine_options(),
        )

    def into_cache(self, request: PlanRequest, folder: Path) -> tuple[PlanRecord, bool]:
        """Return the plan of a stage, and whether it was built by this call."""
        cache, inputs = PlanCache(folder, self._on_progress), self.inputs(request)
        refused = refused_layers_file(cache.stem(inputs))
        return cache.get(
            inputs,
            lambda write: self._build(request, write, folder),
            lambda plan: self._examine(request, plan, refused),
            force=self.options.force,
        )

    def into_file(self, request: PlanRequest, plan: Path) -> PlanRecord:
        """Build the plan of a single ONNX file at a place that the user chose."""
        with locked(file_lock(plan.with_name(f".{plan.name}.lock"))):
            return write_plan(
                plan,
                self.inputs(request),
                lambda write: self._build(request, write, plan.parent),
                lambda path: self._examine(request, path, refused_layers_file(plan)),
                self._on_progress,
            )

    def _build(self, request: PlanRequest, write: Write, folder: Path) -> None:
        timing = TimingCache(self.options.timingCacheFile or folder / TIMING, self._on_progress)
        engine = EngineRequest(
            graph=request.graph,
            shapes=request.shapes,
            options=self.options.engine_options(),
            timing=timing,
            phases=self._phases,
            device=self.options.device,
        )
        build_engine(engine, write)

    def _examine(self, request: PlanRequest, plan: Path, refused: Path) -> EngineInfo:
        use_gpu(self.options.device)
        info = inspect_plan(plan)
        model = for_tensorrt(request.graph.model())
        options, where = self.options.engine_options(), f"stage {request.stage}"
        with preserve_layers(info.layers, request.layers, refused):
            prove(info, model, request.shapes, options, where, self._on_progress)
        return info

    def _plugin_digest(self) -> str:
        if self._plugin is None:
            static = self.options.staticPlugins is not None
            self._plugin = plugin_digest(load_plugin(self.options.plugin, static=static))
        return self._plugin
