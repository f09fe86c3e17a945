"""One stage of a bundle in ONNX Runtime: inputs and outputs bound to buffers of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage, Tensor
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
    """How a session runs.

    Attributes:
        threads: of one session; 0 lets ONNX Runtime take every core.
        kernel: use the project's CPU kernel for the ops where it was built; without it, and on a
            GPU's `cuda` provider always, the function bodies in the graphs compute the same,
            slower and in more memory.
        provider: where it runs.
        device: Index of the GPU, as CUDA counts them.
        plugin: `tensorrt`: the plugin library; None looks in the package.
        cache: `tensorrt`: name of a folder in the user's cache, for the engines that it builds.
    """

    threads: int = 0
    kernel: bool = True
    provider: Provider = "cpu"
    device: int = 0
    plugin: Path | None = None
    cache: str | None = None


class Session:
    """A loaded stage. Calls may come from one thread at a time."""

    def __init__(
        self,
        graph: Path,
        stage: Stage,
        options: SessionOptions,
        memory: HostMemory | CudaMemory | None = None,
    ) -> None:
        """Load a graph of an opened (checked) bundle.

        Args:
            graph: the ONNX file.
            stage: what it reads and writes.
            options: see `SessionOptions`.
            memory: of the GPU, for the providers that run there.

        Raises:
            CovisError: ONNX Runtime refuses the graph, or cannot run it where it should.
        """
        ort = import_onnxruntime()
        self.stage = stage
        self._memory = memory if memory is not None else HostMemory()
        self._on_gpu = options.provider != "cpu"
        self._device = options.device
        library = find_library(ORT_LIBRARY) if options.kernel and not self._on_gpu else None
        settings = session_settings(options.threads, library)
        model: str | bytes = str(graph)
        if options.provider == "tensorrt":
            model = _with_plugins(graph)
            folder = f"{graph.resolve().parent}/"
            settings.add_session_config_entry(_WEIGHTS_FOLDER, folder)
        self._runner = ThreadPoolExecutor(1, "covis-session")
        try:
            self._session = ort.InferenceSession(model, settings, providers=providers(options))
        except Exception as error:
            raise environment_error(
                f"ONNX Runtime {ort.__version__} cannot load it ({first_line(error)})",
                where=graph,
                hint="see `covis doctor`",
            ) from error
        running = self._session.get_providers()[0]
        if running != _PROVIDERS[options.provider]:
            # It says so in its log alone, and runs on the CPU.
            raise environment_error(
                f"ONNX Runtime could not start its {options.provider} provider",
                where=graph,
                hint="check CUDA, cuDNN and TensorRT libraries with `covis doctor`",
            )

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Read `inputs`, write into `outputs`; C-contiguous, typed and shaped as the stage says.

        Arrays are NumPy's, or `DeviceArray` on the GPU of the session. Outputs are complete on
        return.

        Raises:
            CovisError: out of memory (exit code 3), or a failure inside the graph.
        """
        binding = self._session.io_binding()
        held = [self._bind_input(binding, t, inputs[t.name]) for t in self.stage.inputs]
        for tensor in self.stage.outputs:
            self._bind_output(binding, tensor, outputs[tensor.name])
        self._memory.wait()  # ONNX Runtime's stream is another one
        control = import_onnxruntime().RunOptions()
        if self._on_gpu:
            # An arena keeps the largest ever needed, and each session has one of its own.
            place = f"gpu:{self._device}"
            control.add_run_config_entry("memory.enable_memory_arena_shrinkage", place)
        # In a thread of its own, so that Ctrl-C is heard: ONNX Runtime then stops at the next node.
        running = self._runner.submit(self._session.run_with_iobinding, binding, control)
        try:
            running.result()
        except Exception as error:
            raise self._failure(error) from error
        except BaseException:
            control.terminate = True
            running.exception()
            raise
        del held

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
        # ONNX Runtime has no error code for it: its texts are all there is.
        if "bad_alloc" in line or "Failed to allocate" in line or "BFCArena" in line:
            if self._on_gpu:
                return GpuOutOfMemoryError(f"the buffers of stage {self.stage.name}")
            return environment_error(
                f"out of memory ({line})", where=f"stage {self.stage.name}", hint="use fewer views"
            )
        return environment_error(f"failed ({line})", where=f"stage {self.stage.name}")


_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def check_provider(provider: Provider) -> None:
    """Refuse a provider that the installed ONNX Runtime was built without.

    Raises:
        CovisError: exit code 3, with what to install.
    """
    ort = import_onnxruntime()
    if _PROVIDERS[provider] not in ort.get_available_providers():
        raise environment_error(
            f"this ONNX Runtime ({ort.__version__}) has no {provider} provider",
            hint="pip uninstall onnxruntime, then pip install 'covis[gpu]' (onnxruntime-gpu)",
        )


def _element_type(dtype: np.dtype[Any]) -> Any:
    """What the bindings take: NumPy's own types, and ONNX's number for the others."""
    return BY_NAME["bfloat16"].onnx if dtype.name == "bfloat16" else dtype


def providers(options: SessionOptions) -> list[Any]:
    """The provider and those that take what it leaves, in ONNX Runtime's form."""
    if options.provider == "cpu":
        return [_PROVIDERS["cpu"]]
    # The arena grows by what is asked for, not by doubling; float32 means float32.
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
    """Options of ONNX Runtime's TensorRT provider.

    Raises:
        CovisError: there is no plugin library; the cache cannot be made (exit code 3).
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
        # These engines are code, and the provider runs what it finds: no one else may write here.
        # They hold the workspace that these kernels asked for: others get a folder of their own.
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


def _with_plugins(graph: Path) -> bytes:
    """The graph with its ops as TensorRT plugins, weights left in their file."""
    from covis.engines.graphs.read import load_graph
    from covis.engines.tensorrt.parser_graph.parser_graph import for_onnxruntime_tensorrt

    model: bytes = for_onnxruntime_tensorrt(load_graph(graph)).SerializeToString()
    return model
