"""What a built engine says of itself: its inspector's JSON and the memory it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import onnx

from covis.engines.errors import environment_error
from covis.engines.graphs.shapes import tensor_facts
from covis.engines.tensorrt.module import import_tensorrt, logger
from covis.engines.tensorrt.plans.cache import Built
from covis.engines.tensorrt.plans.profiles import InputShapes
from covis.engines.tensorrt.plans.record import EngineOptions
from covis.engines.tensorrt.proof.layers import parse_layers
from covis.engines.tensorrt.proof.report import report

Tell = Callable[[str], None]


def use_gpu(index: int) -> None:
    """Make a GPU current in this thread: TensorRT builds for and runs on the one that is."""
    importlib.import_module("cuda.core").Device(index).set_current()


def inspect_plan(plan: Path) -> Built:
    """Load a plan that was just built, and ask its engine.

    Never for a file from elsewhere: loading runs what is in it (see `plans.trust.read_plan`).

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
    return Built(layers, int(memory if memory is not None else engine.device_memory_size))


def prove(
    built: Built,
    model: onnx.ModelProto,
    shapes: InputShapes,
    options: EngineOptions,
    where: str,
    tell: Tell,
) -> None:
    """Hold a built engine against its graph.

    Args:
        built: from `inspect_plan`.
        model: the graph as the parser got it.
        shapes: of the profile.
        options: of the build; with less than detailed verbosity nothing can be proven, and is told.
        where: the stage, for messages.
        tell: told how much was proven.

    Raises:
        CovisError: the engine is not what was asked for (exit code 4).
    """
    if options.profiling_verbosity != "detailed":
        tell(f"{where}: not proven (built with --profilingVerbosity {options.profiling_verbosity})")
        return
    layers = parse_layers(built.layers, where)
    found = report(model, tensor_facts(model, shapes.opt), layers, tf32=options.tf32)
    found.refuse_faults(where)
    nodes = len(found.attention)
    tell(
        f"{where}: {len(layers)} layers; {nodes} of {nodes} nodes of ours in the plugin; "
        f"{found.proven} of {found.products} products shown in the graph's type"
    )
