"""Inspect a built engine: its layer information, its memory, and the proof of its layers."""

from __future__ import annotations

import importlib
from pathlib import Path

import onnx

from covis.engines.errors import environment_error
from covis.engines.graphs.shapes import tensor_facts
from covis.engines.tensorrt.module import import_tensorrt, logger
from covis.engines.tensorrt.plans.cache import EngineInfo, OnProgress
from covis.engines.tensorrt.plans.profiles import InputShapes
from covis.engines.tensorrt.plans.record import EngineOptions
from covis.engines.tensorrt.proof.layers import parse_layers
from covis.engines.tensorrt.proof.report import report


def use_gpu(index: int) -> None:
    """Make a GPU current in this thread; TensorRT builds for and runs on the current one."""
    importlib.import_module("cuda.core").Device(index).set_current()


def inspect_plan(plan: Path) -> EngineInfo:
    """Deserialise a plan that was just built, and read its layer information and memory.

    Never call this for a file from elsewhere, because deserialising executes what is in it
    (see `plans.trust.read_plan`).

    Raises:
        CovisError: TensorRT cannot load it (exit code 3).
    """
    trt = import_tensorrt()
    log = logger()
    log.forget()
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise environment_error(
            f"TensorRT cannot load the plan it built ({log.last_error()})", where=plan.name
        )
    inspector = engine.create_engine_inspector()
    layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    memory = getattr(engine, "device_memory_size_v2", None)
    return EngineInfo(layers, int(memory if memory is not None else engine.device_memory_size))


def prove(
    info: EngineInfo,
    model: onnx.ModelProto,
    shapes: InputShapes,
    options: EngineOptions,
    where: str,
    on_progress: OnProgress,
) -> None:
    """Compare the layers of a built engine with its graph.

    Args:
        info: Result of `inspect_plan`.
        model: Graph that TensorRT's parser read.
        shapes: Shape of every graph input in the profile.
        options: Options of the build. With less than detailed verbosity nothing can be proven,
            which is reported.
        where: Name of the stage, for messages.
        on_progress: Called with one line that summarises the proof.

    Raises:
        CovisError: the engine does not compute what was requested (exit code 4).
    """
    if options.profiling_verbosity != "detailed":
        verbosity = options.profiling_verbosity
        on_progress(f"{where}: not proven (built with --profilingVerbosity {verbosity})")
        return
    layers = parse_layers(info.layers, where)
    found = report(model, tensor_facts(model, shapes.opt), layers, tf32=options.tf32)
    found.refuse_faults(where)
    nodes = len(found.attention)
    on_progress(
        f"{where}: {len(layers)} layers; {nodes} of {nodes} nodes of ours in the plugin; "
        f"{found.proven} of {found.products} products shown in the graph's type"
    )
