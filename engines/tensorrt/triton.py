"""Write a model repository for Triton Inference Server: one model a stage, and their ensemble.

Fields and values are those of Triton's `model_config.proto`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from onnx import helper

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.manifest import Stage, Tensor
from covis.engines.bundle.names import PAIR_LEVELS
from covis.engines.dtypes import BY_NAME
from covis.engines.errors import user_error
from covis.engines.graphs.read import external_data
from covis.engines.system.atomic import atomic_folder
from covis.engines.system.files import copy_file
from covis.engines.system.native import (
    KERNELS_LIBRARY,
    PLUGIN_LIBRARY,
    find_kernels_of,
    find_library,
)
from covis.engines.system.replace import check_own_files
from covis.engines.tensorrt.module import missing_plugin
from covis.engines.tensorrt.plans.record import PlanRecord, records
from covis.engines.tensorrt.plans.trust import read_plan

Backend = Literal["tensorrt", "onnxruntime"]
ENSEMBLE: Final = "covis"
MODELS: Final = "models"
PLUGINS: Final = "plugins"  # beside the models, because Triton treats all folders there as models
_OURS: Final = re.compile(
    rf"README\.txt|{PLUGINS}/lib[\w.]+\.so"
    rf"|{MODELS}/{ENSEMBLE}\w*/(config\.pbtxt|1/model\.(plan|onnx(/[\w.-]+\.(onnx|safetensors))?))"
)


@dataclass(frozen=True)
class TritonOptions:
    """Options of a model repository.

    Attributes:
        backend: `tensorrt` serves the plans of `covis build`, `onnxruntime` the graphs.
        stages: Stages of the ensemble, in order.
        views: Typical number of views; the plan tuned for the nearest number is served.
        plans: Folder of the plans.
        plugin: Plugin library; None searches the package.
        trusted: sha256 of plans to serve although this user did not build them.
        gpu: Index of the GPU on the server.
    """

    backend: Backend
    stages: tuple[Stage, ...]
    views: int
    plans: Path
    plugin: Path | None = None
    trusted: tuple[str, ...] = ()
    gpu: int = 0


def write_repository(bundle: Bundle, options: TritonOptions, out: Path, *, force: bool) -> str:
    """Write the repository, all of it or nothing.

    Returns:
        The command that serves it.

    Raises:
        CovisError: a plan or the plugin is missing, or a plan is not trusted (2, 3); `out` exists,
            or contains a file that is no part of a repository of covis.
    """
    if force:
        check_own_files(
            out,
            lambda name: _OURS.fullmatch(name) is not None,
            "which is no part of a repository of covis",
        )
    command = f"tritonserver --model-repository={out}/{MODELS}"
    with atomic_folder(out, force=force) as folder:
        models = folder / MODELS
        weights: Path | None = None
        for stage in options.stages:
            place = models / model_name(stage)
            (place / "1").mkdir(parents=True)
            backend = stage_backend(stage, options)
            if backend == "tensorrt":
                record = _plan_for(bundle, stage, options)
                data = read_plan(record, options.plans, options.trusted)
                (place / "1" / "model.plan").write_bytes(data)
            else:
                weights = _place_onnx(bundle, stage, place / "1" / "model.onnx", weights)
            (place / "config.pbtxt").write_text(stage_config(stage, options, backend))
        (models / ENSEMBLE / "1").mkdir(parents=True)  # Triton requires a version, even if empty
        text = ensemble_config(options.stages)
        (models / ENSEMBLE / "config.pbtxt").write_text(text)
        if options.backend == "tensorrt":
            library = find_library(PLUGIN_LIBRARY, options.plugin)
            if library is None:
                raise missing_plugin(options.plugin)
            (folder / PLUGINS).mkdir()
            copy_file(library, folder / PLUGINS / library.name)
            kernels = find_kernels_of(library)
            if kernels is None:
                raise user_error(
                    f"has no {KERNELS_LIBRARY} beside it",
                    where=library,
                    hint="build both, see plugins/tensorrt",
                )
            copy_file(kernels, folder / PLUGINS / kernels.name)  # where the plugin looks first
            command += f" --backend-config=tensorrt,plugins={out}/{PLUGINS}/{library.name}"
        (folder / "README.txt").write_text(_readme(command, options))
    return command


def stage_backend(stage: Stage, options: TritonOptions) -> Backend:
    """Choose the backend of a stage.

    Triton passes no scalars to a plan. A stage with scalar inputs, which is the small saliency
    stage, is therefore served as its graph by ONNX Runtime, where FarthestFirst runs as its
    function.
    """
    return options.backend if all(tensor.shape for tensor in stage.inputs) else "onnxruntime"


def stage_config(stage: Stage, options: TritonOptions, backend: Backend) -> str:
    """Return the `config.pbtxt` of one stage."""
    on_gpu = options.backend == "tensorrt"
    lines = [
        f"name: {_text(model_name(stage))}",
        f"backend: {_text(backend)}",
        "max_batch_size: 0",
        *(_tensor("input", tensor) for tensor in stage.inputs),
        *(_tensor("output", tensor) for tensor in stage.outputs),
    ]
    if on_gpu:
        lines.append(f"instance_group {{ count: 1 kind: KIND_GPU gpus: {options.gpu} }}")
    else:
        lines.append("instance_group { count: 1 kind: KIND_CPU }")
    return "\n".join(lines) + "\n"


def ensemble_config(stages: Sequence[Stage]) -> str:
    """Return the `config.pbtxt` of the ensemble, from photos and control inputs to every result.

    Triton's ensembles do not loop, so the stages that elsewhere run in chunks get all views here.
    """
    produced = {tensor.name for stage in stages for tensor in stage.outputs}
    inputs = {t.name: t for stage in stages for t in stage.inputs if t.name not in produced}
    read = {tensor.name for stage in stages for tensor in stage.inputs}
    results = [
        tensor
        for stage in stages
        for tensor in stage.outputs
        if tensor.name not in read or tensor.name == PAIR_LEVELS
    ]
    lines = [
        f"name: {_text(ENSEMBLE)}",
        'platform: "ensemble"',
        "max_batch_size: 0",
        *(_tensor("input", tensor) for tensor in inputs.values()),
        *(_tensor("output", tensor) for tensor in results),
        "ensemble_scheduling {",
    ]
    for stage in stages:
        maps = [("input_map", tensor.name) for tensor in stage.inputs]
        maps += [("output_map", tensor.name) for tensor in stage.outputs]
        lines += [
            "  step {",
            f"    model_name: {_text(model_name(stage))}",
            "    model_version: -1",
            *(f"    {kind} {{ key: {_text(name)} value: {_text(name)} }}" for kind, name in maps),
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def model_name(stage: Stage) -> str:
    """Return the name of a stage's model in the repository."""
    return f"{ENSEMBLE}_{stage.name}"


def _tensor(kind: str, tensor: Tensor) -> str:
    dims = [-1 if isinstance(size, str) else size for size in tensor.shape]
    # Triton has no tensors of rank 0, and cannot reshape to one in models without batches.
    shape = "".join(f" dims: {size}" for size in dims or [1])
    name, data_type = _text(tensor.name), BY_NAME[tensor.dtype].triton
    return f"{kind} {{ name: {name} data_type: {data_type}{shape} }}"


def _text(words: str) -> str:
    return json.dumps(words)  # names are plain ASCII, so both grammars agree


def _plan_for(bundle: Bundle, stage: Stage, options: TritonOptions) -> PlanRecord:
    """Find the plan of this graph and these weights that is tuned nearest to the views.

    GPU, driver and TensorRT are not compared, because those of the server count: Triton refuses a
    plan that does not match them.
    """
    digests = {file.path: file.sha256 for file in bundle.manifest.files}
    weights = digests[bundle.manifest.weights.file]
    matching = [
        record
        for record in records(options.plans)
        if (record.stage, record.graph, record.weights)
        == (stage.name, digests[stage.graph], weights)
    ]
    if not matching:
        raise user_error(
            "has no plan of this bundle's graph",
            where=f"stage {stage.name}",
            hint=f"covis build {bundle.path} --stages {stage.name} "
            f"--views 1:{options.views}:{options.views} --chunk {options.views}",
        )
    best = min(
        matching, key=lambda r: (options.views not in r.views, abs(r.views.opt - options.views))
    )
    if options.views not in best.views:
        raise user_error(
            f"no plan holds {options.views} views (nearest: {best.views})",
            where=f"stage {stage.name}",
            hint=f"covis build {bundle.path} --stages {stage.name} "
            f"--views 1:{options.views}:{options.views} --chunk {options.views}",
        )
    return best


def _place_onnx(bundle: Bundle, stage: Stage, place: Path, weights: Path | None) -> Path | None:
    """Write the graph and its weights into a folder named `model.onnx`, as Triton requires.

    The weights are written once; further stages get hard links to the same file.

    Returns:
        Path of the weights for the next stage; None as long as no stage has any.
    """
    place.mkdir()
    graph = bundle.graph(stage)
    model, data = graph.model(), graph.read()
    if not all(tensor.shape for tensor in stage.inputs):
        _widen_scalars(model.graph)
        data = model.SerializeToString()
    (place / "model.onnx").write_bytes(data)
    if not any(True for _ in external_data(model)):
        return weights
    target = place / bundle.manifest.weights.file
    if weights is None:
        with bundle.weights.by_name() as source:
            copy_file(source, target)
    else:
        os.link(weights, target)
    return target


def _widen_scalars(graph: onnx.GraphProto) -> None:
    """Turn every input of rank 0 into a vector of one element, in place."""
    scalars = [v for v in graph.input if not v.type.tensor_type.shape.dim]
    scalar_names = {value.name: f"{value.name}.scalar" for value in scalars}
    for node in graph.node:
        node.input[:] = [scalar_names.get(name, name) for name in node.input]
    axes = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "scalar.axes")
    graph.initializer.append(axes)
    squeezes = [
        helper.make_node("Squeeze", [name, axes.name], [scalar])
        for name, scalar in scalar_names.items()
    ]
    for value in scalars:
        value.type.tensor_type.shape.dim.add().dim_value = 1
    nodes = [*squeezes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _readme(command: str, options: TritonOptions) -> str:
    lines = [
        "Serve with",
        f"  {command}",
        "",
        f"Model {ENSEMBLE!r} takes the photos as the bundle's pixel rule makes them, and the",
        "selector's options as tensors, which `covis.runtime.controls.control_inputs` computes; it",
        "runs all views in one go. Cameras come as the model writes them:",
        "`covis.runtime.scene.from_heads` turns them into matrices.",
    ]
    if options.backend == "onnxruntime":
        lines += ["", "Without the CPU kernel's library attention runs dense, in more memory."]
    return "\n".join(lines) + "\n"
