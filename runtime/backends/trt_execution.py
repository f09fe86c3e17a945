"""TensorRT execution context for one set of input shapes, with its buffers and its CUDA graph.

A captured graph contains addresses, and its context must not change afterwards, so other shapes get
another context. All contexts of a thread share the scratch memory of that thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage
from covis.engines.dtypes import numpy_dtype
from covis.engines.errors import CovisError, GpuOutOfMemoryError, environment_error
from covis.engines.tensorrt import module as tensorrt
from covis.runtime.memory.device_array import (
    ALIGNMENT,
    DeviceArray,
    Value,
)
from covis.runtime.memory.memory import CudaMemory

Shapes = dict[str, tuple[int, ...]]


class Execution:
    """Execution of one stage for one set of input shapes, in the thread that created it."""

    def __init__(
        self, engine: Any, stage: Stage, shapes: Shapes, memory: CudaMemory, *, capture: bool
    ) -> None:
        """Create the context and its buffers.

        Args:
            engine: TensorRT's `ICudaEngine`.
            stage: Inputs and outputs of the stage.
            shapes: Shape of every input of the stage, by name.
            memory: Memory of the GPU that runs the stage.
            capture: Give every tensor a buffer at a fixed address and replay a CUDA graph from the
                third run on. The first run warms up, the second is captured.

        Raises:
            CovisError: The shapes are outside the profile, or out of memory.
        """
        self._trt = tensorrt.import_tensorrt()
        self._engine = engine
        self._stage = stage
        self._memory = memory
        present = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        self._inputs = [t for t in stage.inputs if t.name in present]
        self._on_host = {
            t.name
            for t in self._inputs
            if engine.get_tensor_location(t.name) == self._trt.TensorLocation.HOST
        }
        self._host: dict[str, NDArray[Any]] = {}
        self._context = new_context(self._trt, engine, stage)
        for tensor in self._inputs:
            if not self._context.set_input_shape(tensor.name, shapes[tensor.name]):
                raise failure(stage, f"{tensor.name} {shapes[tensor.name]} is refused")
        self._own: dict[str, DeviceArray] = {}
        self._capture = capture
        if capture:
            for tensor in self._inputs:
                if tensor.name not in self._on_host:
                    self._own[tensor.name] = memory.empty(
                        shapes[tensor.name], numpy_dtype(tensor.dtype)
                    )
        self._ready = False
        self._scratch_size = 0
        self._key: tuple[int, ...] = ()
        self._graph: Any = None

    def run(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> None:
        """Copy the inputs, run, and copy the outputs, all in stream order.

        Raises:
            CovisError: Out of memory, or TensorRT fails.
        """
        addresses: dict[str, int] = {}
        staged: list[DeviceArray] = []  # freed in stream order, that is after the work below
        for tensor in self._inputs:
            value = inputs[tensor.name]
            if tensor.name in self._on_host:
                addresses[tensor.name] = self._host_address(tensor.name, value)
            else:
                addresses[tensor.name] = self._source(tensor.name, value, staged)
        if not self._ready:
            self._prepare(outputs, addresses)
        copies: list[tuple[Value, DeviceArray]] = []
        for tensor in self._stage.outputs:
            target = outputs[tensor.name]
            if tensor.name in self._own:
                buffer = self._own[tensor.name]
            elif isinstance(target, DeviceArray) and target.ptr % ALIGNMENT == 0:
                addresses[tensor.name] = target.ptr
                continue
            else:
                buffer = self._memory.empty(target.shape, numpy_dtype(tensor.dtype))
                staged.append(buffer)
            addresses[tensor.name] = buffer.ptr
            copies.append((target, buffer))
        self._launch(addresses)
        for target, buffer in copies:
            self._memory.copy(target, buffer)

    def close(self) -> None:
        """Free the context, its buffers and its graph; the stream must be idle."""
        self._drop_graph()
        self._context = None
        self._own.clear()

    @property
    def captured(self) -> bool:
        """True once runs replay a CUDA graph."""
        return self._graph is not None

    def _prepare(self, outputs: Mapping[str, Value], addresses: Mapping[str, int]) -> None:
        """Infer shapes and allocate outputs; shape tensors must have their addresses by now."""
        for name in self._on_host:
            self._context.set_tensor_address(name, addresses[name])
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:  # the bindings raise it where shapes contradict each other
            raise failure(self._stage, f"shapes cannot be inferred ({error})") from error
        if missing:
            raise failure(self._stage, f"shapes cannot be inferred ({', '.join(missing)})")
        for tensor in self._stage.outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            if shape != tuple(outputs[tensor.name].shape):
                raise failure(
                    self._stage,
                    f"the plan gives {tensor.name} the shape {shape}, "
                    f"{tuple(outputs[tensor.name].shape)} was expected",
                )
            if self._capture:
                self._own[tensor.name] = self._memory.empty(shape, numpy_dtype(tensor.dtype))
        # TensorRT returns 0 where it cannot compute the size, as for shapes that depend on values.
        needed = int(self._context.update_device_memory_size_for_shapes())
        self._scratch_size = needed or int(self._engine.device_memory_size_v2)
        self._ready = True

    def _source(self, name: str, value: Value, staged: list[DeviceArray]) -> int:
        """Return the device address of an input, copied first where it is not usable in place."""
        if name in self._own:
            self._memory.copy(self._own[name], value)
            return self._own[name].ptr
        if isinstance(value, DeviceArray) and value.ptr % ALIGNMENT == 0:
            return value.ptr
        buffer = self._memory.empty(value.shape, value.dtype)
        self._memory.copy(buffer, value)
        staged.append(buffer)
        return buffer.ptr

    def _host_address(self, name: str, value: Value) -> int:
        """Return the host address of a shape tensor, which never changes."""
        array = self._memory.get(value)
        if name not in self._host:
            self._host[name] = np.zeros(max(array.size, 1), array.dtype)
        if not np.array_equal(self._host[name][: array.size], array.ravel()):
            self._host[name][: array.size] = array.ravel()
            self._ready = False  # shapes may depend on it
            self._key = ()
        return self._host[name].ctypes.data

    def _launch(self, addresses: Mapping[str, int]) -> None:
        scratch = self._memory.scratch(max(self._scratch_size, 1))
        stream = self._memory.stream
        key = (scratch.ptr, *addresses.values())
        if key != self._key:
            self._drop_graph()
            self._context.set_device_memory(scratch.ptr, scratch.nbytes)
            for name, address in addresses.items():
                if not self._context.set_tensor_address(name, address):
                    raise failure(self._stage, f"the address of {name} is refused")
            self._execute(stream)
            self._key = key
            return
        if self._graph is None and self._capture:
            self._graph = self._captured(stream)
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self._execute(stream)

    def _execute(self, stream: Any) -> None:
        if not self._context.execute_async_v3(int(stream.handle)):
            raise failure(self._stage, "TensorRT cannot run it")

    def _captured(self, stream: Any) -> Any:
        """Capture one run as a CUDA graph; None where a layer cannot be captured."""
        stream.sync()
        builder = stream.create_graph_builder()
        try:
            builder.begin_building("thread_local")
            done = self._context.execute_async_v3(int(stream.handle))
            builder.end_building()
            if done:
                return builder.complete()
        except Exception as error:  # the capture was invalidated: later runs do without it
            tensorrt.logger().sink("warning", f"{self._stage.name}: no CUDA graph ({error})")
        finally:
            with contextlib.suppress(Exception):
                builder.close()
        self._capture = False
        return None

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._memory.stream.sync()
            self._graph.close()
        self._graph = None


def new_context(trt: ModuleType, engine: Any, stage: Stage) -> Any:
    """Create an execution context whose scratch memory is set by the caller."""
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is None:
        raise failure(stage, "TensorRT makes no execution context for it")
    return context


def failure(stage: Stage, what: str) -> CovisError:
    """Return an error with the last error of TensorRT's log, where there is one."""
    log = tensorrt.logger()
    logged = log.last_error()
    log.forget()
    if any(words in logged.lower() for words in _FULL):
        return GpuOutOfMemoryError(f"the buffers of stage {stage.name}")
    where = f"stage {stage.name}"
    return environment_error(f"{what} ({logged})" if logged else what, where=where)


# TensorRT has no error code for this, so only the text of its log identifies it.
_FULL = ("out of memory", "outofmemory", "cudaerrormemoryallocation")
