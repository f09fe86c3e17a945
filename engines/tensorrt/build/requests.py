"""The plans that a build makes: one request for each stage of a bundle, or for one ONNX file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.bundle.manifest import Manifest, Stage
from covis.engines.bundle.verified import VerifiedGraph, verified_onnx
from covis.engines.limits import PAIR_MAPS
from covis.engines.errors import user_error
from covis.engines.graphs.read import Port, external_data, signature
from covis.engines.op import DOMAIN
from covis.engines.system.atomic import atomic_file
from covis.engines.system.native import PLUGIN_LIBRARY, find_library
from covis.engines.tensorrt.build.layer_evidence import stage_layers_file
from covis.engines.tensorrt.build.options import BuildOptions
from covis.engines.tensorrt.build.trtexec import TrtexecCommand
from covis.engines.tensorrt.parser_graph.float32_attention import find_float32_attention
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from covis.engines.tensorrt.plans.profiles import (
    InputShapes,
    Shape,
    parse_range,
    parse_shapes,
    stage_profile,
    stage_shapes,
)
from covis.engines.tensorrt.plans.record import Range


@dataclass(frozen=True)
class PlanRequest:
    """One plan to build.

    Attributes:
        stage: Name of the stage.
        graph: The ONNX file.
        precision: Name of the export's precision, e.g. "fp16".
        profile: Range of each symbol (M, N, K); empty for a single ONNX file.
        shapes: Shape of every graph input at the ends of the profile and at its optimum.
        graph_sha256: Digest of the ONNX file.
        weights_sha256: Digest of the file that its external data points to; of the ONNX file
            itself if it has no external data.
        uses_plugin: The graph contains nodes of the three ops.
        no_kernel: Name of an attention node that no engine can run, see
            `refuse_float32_attention`; empty if there is none.
        layers: File that the user chose for the layer information; None if not requested.
    """

    stage: str
    graph: VerifiedGraph
    precision: str
    profile: dict[Literal["M", "N", "K", "R"], Range]
    shapes: InputShapes
    graph_sha256: str
    weights_sha256: str
    uses_plugin: bool
    no_kernel: str = ""
    layers: Path | None = None


def stage_requests(bundle: Bundle, options: BuildOptions) -> tuple[PlanRequest, ...]:
    """List the plans of a bundle that `options` request, in the order of its stages.

    Raises:
        CovisError: an unknown stage, or an invalid range (exit code 2).
    """
    manifest = bundle.manifest
    chunk = options.chunk if ":" in options.chunk else f"1:{options.chunk}:{options.chunk}"
    ranges: dict[Literal["M", "N", "K", "R"], Range] = {
        "M": parse_range(options.views, "--views"),
        "N": parse_range(chunk, "--chunk"),
        "K": parse_range(options.probes, "--probes"),
        "R": Range(min=1, opt=min(3, PAIR_MAPS.most), max=PAIR_MAPS.most),
    }
    digests = {file.path: file.sha256 for file in manifest.files}
    stages, layers = _selected_stages(manifest, options.stages), options.exportLayerInfo
    requests = []
    for stage in stages:
        profile = stage_profile(stage, ranges)
        graph = bundle.graph(stage)
        model = graph.model()
        requests.append(
            PlanRequest(
                stage=stage.name,
                graph=graph,
                precision=manifest.precision.name,
                profile=profile,
                shapes=stage_shapes(stage, profile),
                graph_sha256=digests[stage.graph],
                weights_sha256=digests[manifest.weights.file],
                uses_plugin=_uses_plugin(model),
                no_kernel=_no_kernel(model),
                layers=layers and stage_layers_file(layers, stage.name, len(stages)),
            )
        )
    return tuple(requests)


def onnx_request(options: BuildOptions) -> PlanRequest:
    """Describe the plan of a single ONNX file that `options` request.

    Raises:
        CovisError: the file does not exist, or shapes are missing or do not fit its inputs.
    """
    assert options.onnx is not None
    if not options.onnx.is_file():
        raise user_error("no such file", where=options.onnx)
    graph = verified_onnx(options.onnx)
    model, digest = graph.model(), graph.file.sha256
    weights = hashlib.sha256("".join(file.sha256 for file in graph.data.values()).encode())
    stem = re.sub(r"[^a-z0-9_]", "_", options.onnx.stem.lower())[:60]
    return PlanRequest(
        stage=stem if stem[:1].isalpha() else f"g{stem}",
        graph=graph,
        precision="as the graph says",
        profile={},
        shapes=_graph_shapes(model, options),
        graph_sha256=digest,
        weights_sha256=weights.hexdigest() if graph.data else digest,
        uses_plugin=_uses_plugin(model),
        no_kernel=_no_kernel(model),
        layers=options.exportLayerInfo,
    )


def refuse_float32_attention(requests: Sequence[PlanRequest]) -> None:
    """Refuse graphs with float32 attention that follows a level map, before anything is built.

    Raises:
        CovisError: naming the first such node (exit code 2).
    """
    for request in requests:
        if request.no_kernel:
            raise user_error(
                f"attention in float32 ({request.no_kernel}) has no kernel on a GPU",
                where=f"stage {request.stage}",
                hint="export with --precision fp16 or bf16, and without it in --keep-fp32",
            )


def trtexec_command(request: PlanRequest, options: BuildOptions) -> TrtexecCommand:
    """Describe the trtexec command that builds the same plan."""
    folder = options.parser_onnx or Path("PARSER_ONNX")
    plugin = options.plugin or find_library(PLUGIN_LIBRARY) or Path("libcovis_trt.so")
    return TrtexecCommand(
        onnx=folder / f"{request.stage}.onnx",
        plan=options.saveEngine or Path(f"{request.stage}.plan"),
        shapes=request.shapes,
        options=options.engine_options(),
        plugin=plugin if request.uses_plugin else None,
        static=options.staticPlugins is not None,
        timing=options.timingCacheFile,
        layers=request.layers,
        device=options.device,
        verbose=options.verbose,
    )


def write_parser_onnx(request: PlanRequest, folder: Path) -> Path:
    """Write the graph that TensorRT's parser reads, with links to its weights beside it.

    Raises:
        CovisError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = request.graph.model()
    for name in {entry.location for entry in external_data(model)}:
        link, source = folder / name, (request.graph.path.parent / name).resolve()
        if not link.exists():
            link.symlink_to(source)
        elif link.resolve() != source:
            raise user_error("is there already", where=link, hint="choose another --parser-onnx")
    path = folder / f"{request.stage}.onnx"
    with atomic_file(path) as stream:
        stream.write(for_tensorrt(model).SerializeToString())
    return path


def plan_folder(bundle: Bundle, options: BuildOptions) -> Path:
    """Return the folder for a bundle's plans: `--cache`, or `plans` inside the bundle."""
    return options.cache or bundle.path / PLANS


def _selected_stages(manifest: Manifest, names: str | None) -> tuple[Stage, ...]:
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
    return next(iter(find_float32_attention(ir.from_proto(model)).mapped), "")


def _graph_shapes(model: onnx.ModelProto, options: BuildOptions) -> InputShapes:
    """Determine the shapes of the inputs of a single graph.

    Inputs of fixed shape need not be named. As in trtexec, one of the three options stands for
    the others if those are missing.
    """
    ports, _ = signature(model)
    texts = {"min": options.minShapes, "opt": options.optShapes, "max": options.maxShapes}
    fallback = options.optShapes or options.maxShapes or options.minShapes or ""
    shapes = {
        end: _end_shapes(ports, text or fallback, f"--{end}Shapes") for end, text in texts.items()
    }
    dynamic = frozenset(
        name for name, port in ports.items() if port.shape is None or None in port.shape
    )
    return InputShapes(shapes["min"], shapes["opt"], shapes["max"], dynamic)


def _end_shapes(ports: dict[str, Port], text: str, option: str) -> dict[str, Shape]:
    """Determine the shape of every input at one point of the profile."""
    named = parse_shapes(text, option) if text else {}
    if unknown := sorted(named.keys() - ports.keys()):
        raise user_error(f"the graph has no input {unknown[0]!r}", where=option)
    shapes: dict[str, Shape] = {}
    for name, port in ports.items():
        shape = named.get(name, port.shape)
        if shape is None or any(size is None for size in shape):
            raise user_error(
                f"input {name!r} has open dimensions and no shape",
                where=option,
                hint=f"add e.g. {name}:1x3x392x518",
            )
        shapes[name] = tuple(size for size in shape if size is not None)
        _check_fixed(name, shapes[name], port.shape, option)
    return shapes


def _check_fixed(name: str, shape: Shape, port: tuple[int | None, ...] | None, option: str) -> None:
    """Check that a shape has the graph's rank and its fixed dimensions."""
    if port is None:
        return
    if len(shape) != len(port) or any(
        fixed not in (None, size) for size, fixed in zip(shape, port, strict=True)
    ):
        words = "x".join("?" if size is None else str(size) for size in port) or "scalar"
        raise user_error(f"input {name!r} is {words} in the graph", where=option)
