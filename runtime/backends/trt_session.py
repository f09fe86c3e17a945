"""Session of one stage in TensorRT, bound to the caller's input and output buffers.

Counterpart of `covis.runtime.backends.ort_session`, method by method.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covis.engines.bundle.manifest import Stage
from covis.engines.bundle.verified import VerifiedGraph
from covis.engines.dtypes import BY_NAME, numpy_dtype
from covis.engines.errors import environment_error, user_error
from covis.engines.tensorrt import module as tensorrt
from covis.engines.tensorrt.plans.record import PlanRecord
from covis.engines.tensorrt.plans.trust import read_plan
from covis.runtime.backends.trt_execution import Execution, Shapes, failure, new_context
from covis.runtime.memory.device_array import DeviceArray, Value
from covis.runtime.memory.memory import CudaMemory

_MOST_SHAPES = 3  # contexts cached by a thread: the full chunk, the last one, one before a change


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session.

    Attributes:
        folder: Folder with the plan and its record.
        plugin: Path of the plugin library; by default that of the package.
        trusted: Sha256 of plans to run although another user built them.
        cuda_graphs: Replay a captured CUDA graph in stages that run in chunks.
        graph: ONNX file of the stage and its weights, which a plan that was built with
            --stripWeights takes from there.
    """

    folder: Path
    plugin: Path | None = None
    trusted: tuple[str, ...] = ()
    cuda_graphs: bool = True
    graph: VerifiedGraph | None = None


class Session:
    """Loaded stage. Many threads may call it: each has its own context and stream."""

    def __init__(
        self, record: PlanRecord, stage: Stage, options: SessionOptions, memory: CudaMemory
    ) -> None:
        """Load a plan of an opened and checked bundle; its digest is checked first.

        Raises:
            CovisError: The plan was changed or is not trusted (exit code 2); TensorRT or the
                plugin is missing, TensorRT rejects the plan, or out of memory (exit code 3).
        """
        self.stage = stage
        self.record = record
        self._memory = memory
        self._capture = options.cuda_graphs and stage.scope == "frames"
        plan = read_plan(record, options.folder, options.trusted)
        if record.plugin is not None:
            tensorrt.load_plugin(options.plugin)
        trt = tensorrt.import_tensorrt()
        log = tensorrt.logger()
        log.forget()
        memory.set_current()  # TensorRT takes the GPU that is current in this thread
        with _loading:
            self._runtime = trt.Runtime(log)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise failure(stage, f"TensorRT {trt.__version__} cannot load the plan {record.file}")
        if record.options.strip_weights:
            self._fill_weights(trt, options.graph)
        self._check_tensors(trt)
        self._local = threading.local()
        self._probe: Any = None
        self._probing = threading.Lock()

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Read the inputs and write the outputs, both by name.

        Arrays are C-contiguous, with the types and shapes of the stage: NumPy's, `DeviceArray`, or
        any array on this GPU that supports DLPack or the CUDA Array Interface, which is read and
        written in place. Work is ordered by this thread's stream. An output that is not a
        `DeviceArray` is complete on return.

        Raises:
            CovisError: A shape is outside the plan's profile, or an array does not match (exit
                code 2); out of memory, or TensorRT fails (exit code 3).
        """
        arguments = {t.name: self._memory.adopt(inputs[t.name]) for t in self.stage.inputs}
        into = {t.name: self._target(t.name, outputs[t.name]) for t in self.stage.outputs}
        for tensor in (*self.stage.inputs, *self.stage.outputs):
            value = arguments.get(tensor.name, into.get(tensor.name))
            if value is not None and value.dtype != numpy_dtype(tensor.dtype):
                raise user_error(f"is {value.dtype}, not {tensor.dtype}", where=tensor.name)
        tensorrt.logger().forget()
        shapes: Shapes = {name: tuple(value.shape) for name, value in arguments.items()}
        self._execution(shapes).run(arguments, into)
        if any(isinstance(value, np.ndarray) for value in into.values()) or any(
            value is not outputs[name] for name, value in into.items()
        ):
            self._memory.wait()  # its reader does not wait for this stream
        else:
            # A `DeviceArray` is freed in stream order anyway.
            foreign = [v for v in inputs.values() if not isinstance(v, (np.ndarray, DeviceArray))]
            if foreign:
                self._memory.keep(*foreign)

    def scratch_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return the device memory in bytes that a run needs besides its inputs and outputs.

        Args:
            sizes: Value of each symbol (M, N, K).
        """
        trt = tensorrt.import_tensorrt()
        with self._probing:
            if self._probe is None:
                self._probe = new_context(trt, self._engine, self.stage)
            for tensor in self.stage.inputs:
                shape = tuple(sizes[n] if isinstance(n, str) else n for n in tensor.shape)
                if not self._probe.set_input_shape(tensor.name, shape):
                    raise failure(self.stage, f"{tensor.name} {shape} is outside the profile")
            size = int(self._probe.update_device_memory_size_for_shapes())
        # TensorRT returns 0 where it cannot compute the size, as for shapes that depend on values.
        return size or int(self._engine.device_memory_size_v2)

    def release(self) -> None:
        """Free this thread's contexts and buffers; the next run creates them again."""
        self._memory.wait()
        for execution in self._executions().values():
            execution.close()
        self._executions().clear()

    @property
    def captured(self) -> int:
        """Number of CUDA graphs that this thread's runs replay."""
        return sum(execution.captured for execution in self._executions().values())

    def _execution(self, shapes: Shapes) -> Execution:
        executions = self._executions()
        key = tuple(sorted(shapes.items()))
        if key in executions:
            executions.move_to_end(key)
            return executions[key]
        self._check_profile(shapes)
        if len(executions) >= _MOST_SHAPES:
            self._memory.wait()
            executions.popitem(last=False)[1].close()
        executions[key] = Execution(
            self._engine, self.stage, shapes, self._memory, capture=self._capture
        )
        return executions[key]

    def _executions(self) -> OrderedDict[Any, Execution]:
        if not hasattr(self._local, "executions"):
            self._local.executions = OrderedDict()
        executions: OrderedDict[Any, Execution] = self._local.executions
        return executions

    def _check_profile(self, shapes: Shapes) -> None:
        for tensor in self.stage.inputs:
            shape = shapes[tensor.name]
            if len(shape) != len(tensor.shape):
                raise user_error(f"has {len(shape)} dimensions", where=tensor.name)
            for size, listed in zip(shape, tensor.shape, strict=True):
                if isinstance(listed, int):
                    fits, allowed = size == listed, str(listed)
                else:
                    span = self.record.profile.get(listed)
                    fits, allowed = span is None or size in span, f"{listed} = {span}"
                if not fits:
                    raise user_error(
                        f"{tensor.name} has the shape {shape}; the plan takes {allowed}",
                        where=f"stage {self.stage.name}",
                        hint=f"covis build BUNDLE --stages {self.stage.name} with a wider profile",
                    )

    def _target(self, name: str, value: Any) -> Value:
        adopted = self._memory.adopt(value)
        if isinstance(value, np.ndarray) and adopted is not value:
            raise user_error("its buffer is not contiguous", where=name)
        if isinstance(adopted, np.ndarray) and not isinstance(value, np.ndarray):
            raise user_error("its buffer is a foreign array on the host", where=name)
        return adopted

    def _fill_weights(self, trt: Any, graph: VerifiedGraph | None) -> None:
        """Read the weights of a stripped plan from the bundle, with the parser's own reader."""
        from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt

        if graph is None:
            raise user_error(
                "has no weights of its own",
                where=self.record.file,
                hint="build it without --stripWeights",
            )
        log = tensorrt.logger()
        refitter = trt.Refitter(self._engine, log)
        reader = trt.OnnxParserRefitter(refitter, log)
        model = for_tensorrt(graph.model()).SerializeToString()
        with graph.data_by_name() as folder:
            # Weights are read from the file beside the graph, not copied into the model.
            done = reader.refit_from_bytes(model, str(folder / graph.path.name))
            if not done or not refitter.refit_cuda_engine():
                raise failure(self.stage, f"its weights cannot be filled in from {folder}")

    def _check_tensors(self, trt: Any) -> None:
        """Reject a plan that lacks an output of the stage or has a tensor of another type."""
        engine = self._engine
        present = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        listed = {t.name: t for t in (*self.stage.inputs, *self.stage.outputs)}
        missing = {t.name for t in self.stage.outputs} - present
        if strange := sorted(missing | (present - listed.keys())):
            raise environment_error(
                f"the plan and the manifest differ in the tensor {strange[0]!r}",
                where=f"stage {self.stage.name}",
                hint="build the plan anew with `covis build`",
            )
        for name in sorted(present):
            dtype = engine.get_tensor_dtype(name)
            if dtype != tensorrt_dtype(trt, listed[name].dtype):
                raise environment_error(
                    f"the plan has {name} in {dtype}, the manifest in {listed[name].dtype}",
                    where=f"stage {self.stage.name}",
                    hint="build the plan anew with `covis build`",
                )


_loading = threading.Lock()


def tensorrt_dtype(trt: Any, name: str) -> Any:
    """Return the `tensorrt.DataType` of a manifest's dtype."""
    return getattr(trt.DataType, BY_NAME[name].tensorrt)


__all__ = ["DeviceArray", "Session", "SessionOptions", "tensorrt_dtype"]
