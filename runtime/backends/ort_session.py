"""Session of one stage in ONNX Runtime, bound to the caller's input and output buffers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage, Tensor
from covis.engines.bundle.verified import VerifiedGraph
from covis.engines.dtypes import BY_NAME
from covis.engines.errors import (
    CovisError,
    GpuOutOfMemoryError,
    environment_error,
    first_line,
    user_error,
)
from covis.engines.system.native import ORT_LIBRARY, find_library
from covis.engines.system.ort_settings import import_onnxruntime, session_settings
from covis.runtime.backends.ort_load import load_session, no_thread, run_failure
from covis.runtime.memory.device_array import DeviceArray, contiguous
from covis.runtime.memory.memory import CudaMemory, HostMemory

Array = NDArray[Any]
Provider = Literal["cpu", "cuda", "tensorrt"]
_PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session.

    Attributes:
        threads: Number of threads of the session; 0 takes every core.
        kernel: Use the CPU kernel of the sparse ops where it was built. Without it, and always with
            the `cuda` provider, the function bodies in the graphs compute the same, more slowly and
            with more memory.
        provider: Execution provider of ONNX Runtime.
        device: Index of the GPU, as CUDA counts them.
        plugin: Path of the plugin library, for `tensorrt`; by default that of the package.
        cache: Name of a folder in the user's cache for the engines that `tensorrt` builds.
    """

    threads: int = 0
    kernel: bool = True
    provider: Provider = "cpu"
    device: int = 0
    plugin: Path | None = None
    cache: str | None = None


class Session:
    """Loaded stage. Only one thread at a time may call it."""

    def __init__(
        self,
        graph: VerifiedGraph,
        stage: Stage,
        options: SessionOptions,
        memory: HostMemory | CudaMemory | None = None,
    ) -> None:
        """Load a graph of an opened and checked bundle.

        Args:
            graph: ONNX file of the stage, with the file of its weights.
            stage: Inputs and outputs of the stage.
            options: Options of the session.
            memory: Memory of the GPU, for the providers that run there.

        Raises:
            CovisError: ONNX Runtime rejects the graph, or a file was changed since it was checked
                (exit code 2); the provider or a thread cannot be started (3).
        """
        self.stage = stage
        self._graph = graph
        self._memory = memory if memory is not None else HostMemory()
        self._on_gpu = options.provider != "cpu"
        self._device = options.device
        library = find_library(ORT_LIBRARY) if options.kernel and not self._on_gpu else None
        settings = session_settings(options.threads, library)
        model = _with_plugins(graph) if options.provider == "tensorrt" else graph.read()
        self._session = load_session(model, graph, settings, providers(options))
        self._runner = ThreadPoolExecutor(1, "covis-session")
        running = self._session.get_providers()[0]
        if running != _PROVIDERS[options.provider]:
            # ONNX Runtime reports this in its log alone and falls back to the CPU.
            raise environment_error(
                f"ONNX Runtime could not start its {options.provider} provider",
                where=graph.path,
                hint="check CUDA, cuDNN and TensorRT libraries with `covis doctor`",
            )

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Read the inputs and write the outputs, both by name.

        Arrays are C-contiguous, with the types and shapes of the stage: NumPy's, or `DeviceArray`
        on the GPU of the session. Outputs are complete on return.

        Raises:
            CovisError: The graph fails, or its weights were changed (exit code 2); out of memory,
                or no thread can be started (3).
        """
        binding = self._session.io_binding()
        bound = [self._bind_input(binding, t, inputs[t.name]) for t in self.stage.inputs]
        for tensor in self.stage.outputs:
            self._bind_output(binding, tensor, outputs[tensor.name])
        self._memory.wait()  # ONNX Runtime works in a stream of its own
        control = import_onnxruntime().RunOptions()
        if self._on_gpu:
            # Each session has an arena, which would never shrink below its largest use.
            place = f"gpu:{self._device}"
            control.add_run_config_entry("memory.enable_memory_arena_shrinkage", place)
        # A separate thread lets Ctrl-C arrive here; ONNX Runtime then stops at the next node.
        try:
            running = self._runner.submit(self._session.run_with_iobinding, binding, control)
        except RuntimeError as error:
            raise no_thread(error) from error
        try:
            running.result()
        except Exception as error:
            raise self._failure(error) from error
        except BaseException:
            control.terminate = True
            running.exception()
            raise
        del bound  # until here ONNX Runtime reads them
        self._graph.check_data()  # its weights are mapped: a change would have reached the results

    def _bind_input(self, binding: Any, tensor: Tensor, value: Any) -> Any:
        if isinstance(value, DeviceArray):
            gpu = value.stream.device.device_id
            kind, place, address = "cuda", int(gpu), value.ptr
        else:
            value = contiguous(value)
            kind, place, address = "cpu", 0, value.ctypes.data
        binding.bind_input(
            tensor.name, kind, place, _element_type(value.dtype), tuple(value.shape), address
        )
        return value

    def _bind_output(self, binding: Any, tensor: Tensor, value: Any) -> None:
        if isinstance(value, DeviceArray):
            gpu = value.stream.device.device_id
            kind, place, address = "cuda", int(gpu), value.ptr
        else:
            if not value.flags.c_contiguous:
                raise user_error("its buffer is not contiguous", where=tensor.name)
            kind, place, address = "cpu", 0, value.ctypes.data
        binding.bind_output(
            tensor.name, kind, place, _element_type(value.dtype), tuple(value.shape), address
        )

    def _failure(self, error: Exception) -> CovisError:
        line = first_line(error)
        # ONNX Runtime has no error code for this, so only the text identifies it.
        if "bad_alloc" in line or "Failed to allocate" in line or "BFCArena" in line:
            if self._on_gpu:
                return GpuOutOfMemoryError(f"the buffers of stage {self.stage.name}")
            return environment_error(
                f"out of memory ({line})", where=f"stage {self.stage.name}", hint="use fewer views"
            )
        return run_failure(error, self.stage.name, on_gpu=self._on_gpu)


def check_provider(provider: Provider) -> None:
    """Reject a provider that the installed ONNX Runtime was built without.

    Raises:
        CovisError: The provider is missing (exit code 3).
    """
    ort = import_onnxruntime()
    if _PROVIDERS[provider] not in ort.get_available_providers():
        raise environment_error(
            f"this ONNX Runtime ({ort.__version__}) has no {provider} provider",
            hint="pip uninstall onnxruntime, then pip install 'covis[gpu]' (onnxruntime-gpu)",
        )


def _element_type(dtype: np.dtype[Any]) -> Any:
    """Return a dtype for the bindings: NumPy's own types, and ONNX's number for the others."""
    return BY_NAME["bfloat16"].onnx if dtype.name == "bfloat16" else dtype


def providers(options: SessionOptions) -> list[Any]:
    """List the provider and its fallbacks, in ONNX Runtime's form."""
    if options.provider == "cpu":
        return [_PROVIDERS["cpu"]]
    # The arena grows by the size requested instead of doubling; TF32 would round float32.
    cuda = {
        "device_id": options.device,
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": 0,
    }
    found: list[Any] = [(_PROVIDERS["cuda"], cuda), _PROVIDERS["cpu"]]
    if options.provider == "tensorrt":
        found.insert(0, (_PROVIDERS["tensorrt"], tensorrt_options(options)))
    return found


def tensorrt_options(options: SessionOptions) -> dict[str, Any]:
    """Return the options of ONNX Runtime's TensorRT provider.

    Raises:
        CovisError: There is no plugin library, or the cache folder cannot be created (exit code 3).
    """
    import platformdirs

    from covis.engines.system.native import PLUGIN_LIBRARY, find_library
    from covis.engines.tensorrt.module import missing_plugin, plugin_digest

    library = find_library(PLUGIN_LIBRARY, options.plugin)
    if library is None:
        raise missing_plugin(options.plugin)
    chosen: dict[str, Any] = {
        "device_id": options.device,
        "trt_extra_plugin_lib_paths": str(library),
    }
    if options.cache is not None:
        # The provider runs the engines that it finds, and engines are code: nobody else may write
        # here. Their workspace fits these kernels only, so other kernels get another folder.
        folder = platformdirs.user_cache_path("covis") / "onnxruntime-tensorrt" / options.cache
        folder /= plugin_digest(library)[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise environment_error(
                f"cannot be made ({error.strerror or error})", where=folder, hint="check rights"
            ) from error
        chosen |= {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(folder),
        }
    return chosen


def _with_plugins(graph: VerifiedGraph) -> bytes:
    """Return the graph with the sparse ops as TensorRT plugins; weights stay in their file."""
    from covis.engines.tensorrt.parser_graph.parser_graph import for_onnxruntime_tensorrt

    model: bytes = for_onnxruntime_tensorrt(graph.model()).SerializeToString()
    return model
