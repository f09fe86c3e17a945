"""From a bundle and build options to plans in the cache, one for each stage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from covis.engines.system.atomic import atomic_file, check_file_target
from covis.engines.tensorrt.build.options import BuildOptions
from covis.engines.tensorrt.build.progress import Phases, Silent
from covis.engines.tensorrt.build.engine import EngineRequest, build_engine
from covis.engines.bundle.bundle import PLANS, Bundle, open_bundle, sha256_of
from covis.engines.tensorrt.plans.cache import Built, PlanCache, Write, file_lock, held, write_plan
from covis.engines.errors import user_error
from covis.engines.system.gpu import Gpu, find_gpu
from covis.engines.graphs.read import external_data, load_graph
from covis.engines.tensorrt.proof.inspector import inspect_plan, prove, use_gpu
from covis.engines.tensorrt.build.layer_evidence import kept_evidence, refused_file, stage_file
from covis.engines.bundle.manifest import Manifest, Stage
from covis.engines.tensorrt.parser_graph.parser_graph import COPY_VERSION, for_tensorrt
from covis.engines.op import DOMAIN
from covis.engines.tensorrt.plans.record import PlanInputs, PlanRecord, Range
from covis.engines.tensorrt.plans.profiles import (
    InputShapes,
    parse_range,
    parse_shapes,
    stage_profile,
    stage_shapes,
)
from covis.engines.tensorrt.build.timing_cache import TimingCache
from covis.engines.tensorrt.module import Tell as LogTo
from covis.engines.tensorrt.module import import_tensorrt, load_plugin, logger, plugin_digest
from covis.engines.system.native import PLUGIN_LIBRARY, find_library
from covis.engines.tensorrt.build.trtexec import TrtexecBuild
from covis.engines.tensorrt.parser_graph.float32_attention import wide_attention

Tell = Callable[[str], None]
TIMING = "timing.cache"


@dataclass(frozen=True)
class PlanBuild:
    """One plan to build.

    Attributes:
        stage: its name.
        graph: the ONNX file.
        precision: the export's.
        profile: ranges of its symbols; empty for a single ONNX file.
        shapes: of its inputs.
        graph_sha256: digest of the file.
        weights_sha256: digest of what its external data points to, or of the file itself.
        uses_plugin: whether it has nodes of ours.
        no_kernel: an attention node that no engine can run, see `refuse_wide_attention`; or "".
        layers: the user's file for its layer information, if any.
    """

    stage: str
    graph: Path
    precision: str
    profile: dict[Literal["M", "N", "K"], Range]
    shapes: InputShapes
    graph_sha256: str
    weights_sha256: str
    uses_plugin: bool
    no_kernel: str = ""
    layers: Path | None = None


OnPlan = Callable[[PlanRecord, Path, bool], None]
"""Called after each stage with its record, the folder of its plan, and whether it was built now."""


def build(
    options: BuildOptions,
    *,
    on_progress: Tell = lambda text: None,
    on_plan: OnPlan = lambda record, folder, built: None,
    on_log: LogTo | None = None,
    phases: Phases | None = None,
) -> tuple[PlanRecord, ...]:
    """Build the TensorRT engines of a bundle, and prove each from its layer information.

    A plan that is in the cache already, built from the same inputs, is not built again.

    Args:
        options: which bundle or ONNX file, which stages, which ranges of the dynamic dimensions.
        on_progress: called with one line of text for each step.
        on_plan: see `OnPlan`.
        on_log: called with severity and text of each message of TensorRT itself.
        phases: receives TensorRT's own build phases; may stop the build.

    Returns:
        The record of each plan, in the order of the bundle's stages.

    Raises:
        CovisError: wrong options or a stage without a kernel (2); no GPU, TensorRT or plugin (3);
            an engine that is not what was asked for (4). Plans of earlier stages stay.
    """
    bundle = open_bundle(options.bundle) if options.bundle is not None else None
    builds = stage_builds(bundle, options) if bundle is not None else (onnx_build(options),)
    refuse_wide_attention(builds)
    for one in builds:
        if one.layers is not None:
            check_file_target(one.layers)
    builder = PlanBuilder(options, on_progress, phases)
    if on_log is not None:
        logger(on_log)
    records = []
    for one in builds:
        if bundle is not None:
            folder = plan_folder(bundle, options)
            record, built = builder.into_cache(one, folder)
            on_plan(record, folder, built)
            records.append(record)
        elif options.saveEngine is not None:
            record = builder.into_file(one, options.saveEngine)
            on_plan(record, options.saveEngine.parent, True)
            records.append(record)
    return tuple(records)


def refuse_wide_attention(builds: Sequence[PlanBuild]) -> None:
    """Refuse graphs with float32 attention that follows a map, before minutes go into others.

    Raises:
        CovisError: naming the first such node (exit code 2).
    """
    for build in builds:
        if build.no_kernel:
            raise user_error(
                f"attention in float32 ({build.no_kernel}) has no kernel on a GPU",
                where=f"stage {build.stage}",
                hint="export with --precision fp16 or bf16, and without it in --keep-fp32",
            )


def stage_builds(bundle: Bundle, options: BuildOptions) -> tuple[PlanBuild, ...]:
    """What `options` ask to build of a bundle, in the order of its stages.

    Raises:
        CovisError: an unknown stage, or a range that is none.
    """
    manifest = bundle.manifest
    chunk = options.chunk if ":" in options.chunk else f"1:{options.chunk}:{options.chunk}"
    ranges: dict[Literal["M", "N", "K"], Range] = {
        "M": parse_range(options.views, "--views"),
        "N": parse_range(chunk, "--chunk"),
        "K": parse_range(options.probes, "--probes"),
    }
    digests = {file.path: file.sha256 for file in manifest.files}
    builds = []
    chosen, layers = _chosen(manifest, options.stages), options.exportLayerInfo
    for stage in chosen:
        profile = stage_profile(stage, ranges)
        model = load_graph(bundle.graph(stage))
        builds.append(
            PlanBuild(
                stage=stage.name,
                graph=bundle.graph(stage),
                precision=precision_name(manifest),
                profile=profile,
                shapes=stage_shapes(stage, profile),
                graph_sha256=digests[stage.graph],
                weights_sha256=digests[manifest.weights.file],
                uses_plugin=_uses_plugin(model),
                no_kernel=_no_kernel(model),
                layers=layers and stage_file(layers, stage.name, len(chosen)),
            )
        )
    return tuple(builds)


def onnx_build(options: BuildOptions) -> PlanBuild:
    """What `options` ask to build of a single ONNX file.

    Raises:
        CovisError: no such file; shapes that are missing or do not fit its inputs.
    """
    assert options.onnx is not None
    if not options.onnx.is_file():
        raise user_error("no such file", where=options.onnx)
    model = load_graph(options.onnx)
    outside = sorted({entry.location for entry in external_data(model)})
    digest = sha256_of(options.onnx)
    weights = hashlib.sha256()
    for name in outside:
        weights.update(sha256_of(options.onnx.parent / name).encode())
    stem = re.sub(r"[^a-z0-9_]", "_", options.onnx.stem.lower())[:60]
    return PlanBuild(
        stage=stem if stem[:1].isalpha() else f"g{stem}",
        graph=options.onnx,
        precision="as the graph says",
        profile={},
        shapes=_graph_shapes(model, options),
        graph_sha256=digest,
        weights_sha256=weights.hexdigest() if outside else digest,
        uses_plugin=_uses_plugin(model),
        no_kernel=_no_kernel(model),
        layers=options.exportLayerInfo,
    )


def trtexec_build(build: PlanBuild, options: BuildOptions) -> TrtexecBuild:
    """The words for trtexec that build the same plan."""
    folder = options.parser_onnx or Path("PARSER_ONNX")
    plugin = options.plugin or find_library(PLUGIN_LIBRARY) or Path("libcovis_trt.so")
    return TrtexecBuild(
        onnx=folder / f"{build.stage}.onnx",
        plan=options.saveEngine or Path(f"{build.stage}.plan"),
        shapes=build.shapes,
        options=options.engine_options(),
        plugin=plugin if build.uses_plugin else None,
        static=options.staticPlugins is not None,
        timing=options.timingCacheFile,
        layers=build.layers,
        device=options.device,
        verbose=options.verbose,
    )


def write_parser_onnx(build: PlanBuild, folder: Path) -> Path:
    """Write a graph as the parser gets it, with links to its weights beside it.

    Raises:
        CovisError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = load_graph(build.graph)
    for name in {entry.location for entry in external_data(model)}:
        link, source = folder / name, (build.graph.parent / name).resolve()
        if not link.exists():
            link.symlink_to(source)
        elif link.resolve() != source:
            raise user_error("is there already", where=link, hint="choose another --parser-onnx")
    path = folder / f"{build.stage}.onnx"
    with atomic_file(path) as stream:
        stream.write(for_tensorrt(model).SerializeToString())
    return path


class PlanBuilder:
    """Builds plans on one GPU, with one plugin; starts TensorRT only where there is one."""

    def __init__(self, options: BuildOptions, tell: Tell, phases: Phases | None = None) -> None:
        """Find GPU, TensorRT and plugin.

        Raises:
            CovisError: one of them is missing (exit code 3).
        """
        self.options = options
        self._tell = tell
        self._phases = phases or Silent()
        # The GPU first: without a driver, TensorRT 10.6 ends the process instead of failing.
        self._gpu: Gpu = find_gpu(options.device)
        self._tensorrt = str(import_tensorrt().__version__)
        self._plugin: str | None = None

    def inputs(self, build: PlanBuild) -> PlanInputs:
        """All that goes into the plan."""
        return PlanInputs(
            stage=build.stage,
            precision=build.precision,
            graph=build.graph_sha256,
            parser_copy=COPY_VERSION,
            weights=build.weights_sha256,
            plugin=self._plugin_digest() if build.uses_plugin else None,
            tensorrt=self._tensorrt,
            cuda=self._gpu.cuda,
            driver_branch=self._gpu.driver_branch,
            gpu=self._gpu.name,
            compute_capability=self._gpu.compute_capability,
            profile=build.profile,
            options=self.options.engine_options(),
        )

    def into_cache(self, build: PlanBuild, folder: Path) -> tuple[PlanRecord, bool]:
        """The plan of a stage, and whether it had to be built."""
        cache, inputs = PlanCache(folder, self._tell), self.inputs(build)
        refused = refused_file(cache.stem(inputs))
        return cache.get(
            inputs,
            lambda write: self._run(build, write, folder),
            lambda plan: self._examine(build, plan, refused),
            force=self.options.force,
        )

    def into_file(self, build: PlanBuild, plan: Path) -> PlanRecord:
        """The plan of a single ONNX file, at a place of the user's choice."""
        with held(file_lock(plan.with_name(f".{plan.name}.lock"))):
            return write_plan(
                plan,
                self.inputs(build),
                lambda write: self._run(build, write, plan.parent),
                lambda path: self._examine(build, path, refused_file(plan)),
                self._tell,
            )

    def _run(self, build: PlanBuild, write: Write, folder: Path) -> None:
        timing = TimingCache(self.options.timingCacheFile or folder / TIMING, self._tell)
        request = EngineRequest(
            graph=build.graph,
            shapes=build.shapes,
            options=self.options.engine_options(),
            timing=timing,
            phases=self._phases,
            device=self.options.device,
        )
        build_engine(request, write)

    def _examine(self, build: PlanBuild, plan: Path, refused: Path) -> Built:
        use_gpu(self.options.device)
        built = inspect_plan(plan)
        model = for_tensorrt(load_graph(build.graph))
        options = self.options.engine_options()
        with kept_evidence(built.layers, build.layers, refused):
            prove(built, model, build.shapes, options, f"stage {build.stage}", self._tell)
        return built

    def _plugin_digest(self) -> str:
        if self._plugin is None:
            options = self.options
            static = options.staticPlugins is not None
            self._plugin = plugin_digest(load_plugin(options.plugin, static=static))
        return self._plugin


def plan_folder(bundle: Bundle, options: BuildOptions) -> Path:
    """Where a bundle's plans go."""
    return options.cache or bundle.path / PLANS


def precision_name(manifest: Manifest) -> str:
    """In what the graphs of a bundle compute."""
    precision = getattr(manifest, "precision", None)
    return str(precision.name) if precision is not None else "float32"


def _chosen(manifest: Manifest, names: str | None) -> tuple[Stage, ...]:
    if names is None:
        return manifest.stages
    known = {stage.name: stage for stage in manifest.stages}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise user_error(
            f"the bundle has no stage {unknown[0]!r}",
            where="--stages",
            hint=f"use {', '.join(known)}",
        )
    return tuple(stage for stage in manifest.stages if stage.name in wanted)


def _uses_plugin(model: onnx.ModelProto) -> bool:
    return any(node.domain == DOMAIN for node in model.graph.node)


def _no_kernel(model: onnx.ModelProto) -> str:
    return next(iter(wide_attention(model, DOMAIN).mapped), "")


def _graph_shapes(model: onnx.ModelProto, options: BuildOptions) -> InputShapes:
    """Shapes of the inputs of a single graph; fixed ones need not be named.

    As in trtexec, one of the three options stands for the others where they are not given.
    """
    from covis.engines.graphs.read import signature

    ports, _ = signature(model)
    texts = {"min": options.minShapes, "opt": options.optShapes, "max": options.maxShapes}
    first = options.optShapes or options.maxShapes or options.minShapes or ""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for end, text in texts.items():
        option = f"--{end}Shapes"
        given = parse_shapes(text or first, option) if text or first else {}
        if strange := sorted(given.keys() - ports.keys()):
            raise user_error(f"the graph has no input {strange[0]!r}", where=option)
        found[end] = {}
        for name, port in ports.items():
            shape = given.get(name, port.shape)
            if shape is None or any(size is None for size in shape):
                raise user_error(
                    f"input {name!r} has open dimensions and no shape", where=option,
                    hint=f"add e.g. {name}:1x3x392x518",
                )  # fmt: skip
            found[end][name] = tuple(size for size in shape if size is not None)
            _check_fixed(name, found[end][name], port.shape, option)
    dynamic = frozenset(
        name for name, port in ports.items() if port.shape is None or None in port.shape
    )
    return InputShapes(found["min"], found["opt"], found["max"], dynamic)


def _check_fixed(
    name: str, shape: tuple[int, ...], port: tuple[int | None, ...] | None, option: str
) -> None:
    """A shape has the graph's rank and its fixed dimensions."""
    if port is None:
        return
    if len(shape) != len(port) or any(
        fixed not in (None, size) for size, fixed in zip(shape, port, strict=True)
    ):
        words = "x".join("?" if size is None else str(size) for size in port) or "scalar"
        raise user_error(f"input {name!r} is {words} in the graph", where=option)
