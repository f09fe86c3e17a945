"""Build a strongly typed TensorRT engine from an ONNX graph, with TensorRT 10.6 to 11.x."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covis.engines.bundle.verified import VerifiedFile, VerifiedGraph
from covis.engines.tensorrt.build.progress import Phases, SilentPhases, monitor
from covis.engines.tensorrt.build.config import builder_settings, network_flags
from covis.engines.tensorrt.plans.cache import Write
from covis.engines.errors import CovisError, environment_error, printable, user_error
from covis.engines.graphs.read import external_data
from covis.engines.tensorrt.proof.inspector import use_gpu
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from covis.engines.tensorrt.plans.record import EngineOptions
from covis.engines.tensorrt.plans.profiles import InputShapes
from covis.engines.tensorrt.build.timing_cache import TimingCache
from covis.engines.tensorrt.module import import_tensorrt, logger


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build.

    Attributes:
        graph: The ONNX file, with the files of its external data.
        shapes: Shape of every graph input at the ends of the profile and at its optimum.
        options: Options that change the engine.
        timing: Cache of kernel times to use and to extend; None measures everything.
        phases: Receives the phases of the build.
        device: Index of the GPU to build for.
    """

    graph: VerifiedGraph
    shapes: InputShapes
    options: EngineOptions
    timing: TimingCache | None = None
    phases: Phases = field(default_factory=SilentPhases)
    device: int = 0


def build_engine(request: EngineRequest, write: Write) -> None:
    """Build an engine and write its plan in pieces.

    TensorRT runs in another thread, so that Ctrl-C reaches this one: the build is then cancelled,
    and has ended when this function raises.

    Raises:
        CovisError: TensorRT rejects the graph or finds no kernel (exit code 3), with its own first
            error; or the graph's inputs are not those of the profile (exit code 2).
        KeyboardInterrupt: Ctrl-C, after TensorRT has stopped.
    """
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            _build(request, write, stop)
        except BaseException as error:  # raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=work, name="covis-build")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)  # without a timeout, some systems deliver no signal here
    except BaseException:
        stop.set()
        thread.join()
        raise
    if errors:
        raise errors[0]


def _build(request: EngineRequest, write: Write, stop: threading.Event) -> None:
    trt = import_tensorrt()
    log = logger()
    log.forget()
    use_gpu(request.device)
    settings = builder_settings(trt, request.options)
    with ExitStack() as mappings:  # mapped weights must outlive parser and build
        builder = _create(trt.Builder, log, where="TensorRT")
        network = builder.create_network(network_flags(trt))
        config = builder.create_builder_config()
        settings.apply(config)
        parser = trt.OnnxParser(network, log)
        parse_graph(parser, request.graph, mappings)
        config.add_optimization_profile(_profile(builder, network, request))
        config.progress_monitor = monitor(request.phases, stop)
        times = _attach_timing(config, request, log)
        is_built = _serialize(trt, builder, network, config, write)
        if stop.is_set():
            raise KeyboardInterrupt
        if not is_built:
            raise _build_error(request.graph.path, "no engine can be built")
        request.graph.check_data()  # its weights are mapped: a change would be in the plan
        if request.timing is not None and times is not None:
            _save_timing(config, request.timing, times)
        del parser, network, config, builder


def _create(factory: Callable[..., Any], log: Any, where: str) -> Any:
    """Create a TensorRT object; a failure becomes an error with the reason from TensorRT's log.

    The bindings raise TypeError if the library returns a null pointer.
    """
    try:
        return factory(log)
    except TypeError as error:
        raise environment_error(
            f"cannot start ({log.last_error() or printable(str(error))})",
            where=where,
            hint="see `covis doctor`",
        ) from error


def parse_graph(parser: Any, graph: VerifiedGraph, mappings: ExitStack) -> None:
    """Parse the copy of a graph whose nodes name the plugin, with memory-mapped weights.

    From 10.13 on the parser takes pointers to weights, here into the mapped file: they are then in
    memory once, shared with the system's page cache. Older parsers read each tensor into memory
    of their own.

    Args:
        parser: A `tensorrt.OnnxParser` of an empty network.
        graph: Graph of the bundle, with the files of its external data.
        mappings: Receives the mapped weights, which must outlive parser, network and build.

    Raises:
        CovisError: the parser rejects the graph, with its own first reason (exit code 3).
    """
    model = for_tensorrt(graph.model())
    data = model.SerializeToString()
    if not hasattr(parser, "load_initializer"):
        with graph.data_by_name() as folder:
            done = parser.parse(data, str(folder / graph.path.name))
    else:
        external = {entry.tensor: entry for entry in external_data(model)}
        initializers = {tensor.name for tensor in model.graph.initializer}
        done = parser.load_model_proto(data, str(graph.path.resolve()))
        addresses: dict[str, int] = {}
        for name in sorted(external.keys() & initializers) if done else ():
            entry = external[name]
            if entry.location not in addresses:
                addresses[entry.location] = _map_file(graph.data[entry.location], mappings)
            address = addresses[entry.location] + entry.offset
            done = done and parser.load_initializer(name, address, entry.length)
        done = done and parser.parse_model_proto()
    if not done:
        reasons = [printable(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        reason = reasons[0] if reasons else ""
        raise _build_error(graph.path, "TensorRT's parser refuses the graph", reason)


def _map_file(file: VerifiedFile, mappings: ExitStack) -> int:
    """Map a file, and return the address of its bytes, valid until `mappings` closes."""
    import numpy as np

    view = file.map()
    array = np.frombuffer(view, np.uint8)

    def close() -> None:
        nonlocal array
        del array
        view.close()

    mappings.callback(close)
    return int(array.ctypes.data)


def _profile(builder: Any, network: Any, request: EngineRequest) -> Any:
    shapes, where = request.shapes, str(request.graph.path)
    profile = builder.create_optimization_profile()
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    if odd := sorted(set(names) ^ shapes.max.keys()):
        side = "graph" if odd[0] in names else "shapes"
        raise user_error(f"only the {side} has an input {odd[0]!r}", where=where)
    for index, name in enumerate(names):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise environment_error(
                f"input {name!r} would steer shapes, which a plan of covis does not do",
                where=where,
                hint="export the bundle again",
            )
        if -1 in tuple(tensor.shape):
            profile.set_shape(name, shapes.min[name], shapes.opt[name], shapes.max[name])
        elif tuple(tensor.shape) != shapes.max[name]:
            raise user_error(
                f"input {name!r} is {list(tensor.shape)} in the graph, "
                f"{list(shapes.max[name])} is asked for",
                where=where,
            )
    return profile


def _attach_timing(config: Any, request: EngineRequest, log: Any) -> bytes | None:
    """Pass the cached kernel times to the builder, or an empty cache if it rejects them.

    Returns:
        The bytes that the builder took; None if no cache is in use.
    """
    if request.timing is None:
        return None
    known = request.timing.read()
    for data in (known, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            log.forget()
            return data
    return None


def _save_timing(config: Any, timing: TimingCache, used: bytes) -> None:
    """Add the measured times to the cache; a file that cannot be written is reported, not an error."""
    measured = bytes(config.get_timing_cache().serialize())

    def merge(known: bytes, new: bytes) -> bytes:
        if known == used:
            return new  # no other build has written meanwhile
        both = config.create_timing_cache(known)
        if both is None or not both.combine(config.create_timing_cache(new), ignore_mismatch=False):
            return new  # of another GPU or TensorRT: this build's times replace them
        return bytes(both.serialize())

    try:
        timing.add(measured, merge)
    except CovisError as error:
        timing.on_progress(f"kernel times are not kept: {error}")


def _serialize(trt: Any, builder: Any, network: Any, config: Any, write: Write) -> bool:
    """Build and write the plan, in pieces if this TensorRT can stream, else from one block.

    Returns:
        False if TensorRT built no engine.
    """
    if not hasattr(builder, "build_serialized_network_to_stream"):
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            return False
        write(memoryview(plan))
        return True
    errors: list[BaseException] = []

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            try:
                write(data)
            except BaseException as error:  # must not cross into TensorRT
                errors.append(error)
                return 0
            return len(data)

    done = bool(builder.build_serialized_network_to_stream(network, config, Writer()))
    if errors:
        raise errors[0]
    return done


def _build_error(graph: Path, what: str, reason: str = "") -> CovisError:
    reason = reason or logger().last_error() or "TensorRT gives no reason; see --verbose"
    return environment_error(f"{what} ({reason[:400]})", where=graph)
