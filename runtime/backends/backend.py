"""Backends that run the stages of a bundle, and the choice between them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.bundle.manifest import Stage
from covis.engines.bundle.verified import VerifiedGraph
from covis.engines.errors import GpuOutOfMemoryError
from covis.engines.options import BackendOptions
from covis.runtime.backends.process import OwnProcess
from covis.runtime.memory.memory import CudaMemory, HostMemory

if TYPE_CHECKING:
    from covis.engines.system.gpu import Gpu
    from covis.engines.tensorrt.plans.record import PlanRecord
    from covis.runtime.backends.trt_session import Session
    from covis.runtime.flow import Step

Memory = HostMemory | CudaMemory
_CONTEXTS = 32 << 20  # bytes that execution contexts themselves take


class StageSession(Protocol):
    """Loaded stage of any backend."""

    stage: Stage

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Read the inputs and write the outputs, both by name."""


class Backend(Protocol):
    """Interface of a backend to the pipeline."""

    @property
    def memory(self) -> Memory:
        """Memory of the values that pass from stage to stage."""

    def session(self, stage: Stage, size: int) -> StageSession:
        """Load a stage for `size` views, or frames of a chunk; loaded stages are reused."""

    def chunk(self, stage: Stage, frames: int) -> tuple[int, int]:
        """Return the largest chunk of a stage, at most about `frames`, and its smallest chunk."""

    def check(
        self, run: tuple[Step, ...], views: int, chunk: int, lengths: Mapping[str, int]
    ) -> None:
        """Reject a run that does not fit into memory, before it begins.

        Raises:
            CovisError: Not enough memory (exit code 3); a plan is missing, or the backend was
                opened in another process (2).
        """

    def release(self) -> None:
        """Free the memory that a failed run left behind, so that a smaller one can follow."""

    def about(self) -> dict[str, str]:
        """Return backend, device and versions for the provenance of a scene."""


@dataclass
class OnnxRuntimeBackend:
    """ONNX Runtime, on the CPU or on a GPU; values stay on the device between stages."""

    bundle: Bundle
    options: BackendOptions
    threads: int = 0
    kernel: bool = True
    memory: Memory = field(default_factory=HostMemory)
    sessions: dict[str, StageSession] = field(default_factory=dict)
    process: OwnProcess = field(default_factory=OwnProcess)

    def session(self, stage: Stage, size: int) -> StageSession:
        """Load a stage; one session serves every size."""
        self.process.check()
        if stage.name not in self.sessions:
            self.sessions[stage.name] = self.load(self.bundle.graph(stage), stage)
        return self.sessions[stage.name]

    def load(self, graph: VerifiedGraph, stage: Stage) -> StageSession:
        """Load a graph for a stage, without keeping it for later runs."""
        from covis.runtime.backends.ort_session import Session, SessionOptions

        on_gpu = isinstance(self.memory, CudaMemory)
        gpu_provider = "tensorrt" if self.options.backend == "ort-tensorrt" else "cuda"
        options = SessionOptions(
            threads=self.threads,
            kernel=self.kernel,
            provider=gpu_provider if on_gpu else "cpu",  # type: ignore[arg-type]
            device=self.options.device,
            plugin=self.options.plugin,
            cache=self.bundle.digest()[:32],
        )
        return Session(graph, stage, options, self.memory)

    def chunk(self, stage: Stage, frames: int) -> tuple[int, int]:
        """Return the number of frames as it is: ONNX Runtime takes chunks of any length."""
        return frames, 1

    def check(
        self, run: tuple[Step, ...], views: int, chunk: int, lengths: Mapping[str, int]
    ) -> None:
        """Accept every run of this process: ONNX Runtime does not report its memory in advance."""
        self.process.check()

    def release(self) -> None:
        """Free the memory of the values; sessions free their own after each run."""
        if isinstance(self.memory, CudaMemory):
            self.memory.release()

    def about(self) -> dict[str, str]:
        """Return backend, device and the version of ONNX Runtime."""
        from covis.engines.system.ort_settings import import_onnxruntime

        return {
            "backend": self.options.library,
            "device": "cuda" if self.options.on_gpu else "cpu",
            "onnxruntime": str(import_onnxruntime().__version__),
        }


@dataclass
class TensorRtBackend:
    """TensorRT with the plans of `covis build`; all values stay on the GPU between stages."""

    bundle: Bundle
    options: BackendOptions
    memory: CudaMemory
    gpu: Gpu
    plugin_digest: str | None  # sha256 of the plugin library and its kernels
    sessions: dict[str, StageSession] = field(default_factory=dict)
    plans: dict[tuple[str, int], PlanRecord] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    process: OwnProcess = field(default_factory=OwnProcess)

    def session(self, stage: Stage, size: int) -> StageSession:
        """Load the plan whose profile is nearest to `size`."""
        from covis.runtime.backends.trt_session import Session, SessionOptions

        self.process.check()
        with self.lock:
            record = self._plan(stage, size)
            if record.sha256 not in self.sessions:
                options = SessionOptions(
                    folder=self._folder,
                    plugin=self.options.plugin,
                    trusted=self.options.trust_plan,
                    cuda_graphs=self.options.cuda_graphs,
                    graph=self.bundle.graph(stage),
                )
                self.sessions[record.sha256] = Session(record, stage, options, self.memory)
            return self.sessions[record.sha256]

    def chunk(self, stage: Stage, frames: int) -> tuple[int, int]:
        """Return the nearest chunk that a plan of this stage accepts, and its smallest chunk."""
        span = self._plan(stage, frames).views
        return span.clamp(frames), span.min

    def check(
        self, run: tuple[Step, ...], views: int, chunk: int, lengths: Mapping[str, int]
    ) -> None:
        """Reject a run that does not fit, and name the largest number of views that does.

        Raises:
            CovisError: A plan is missing (exit code 2), or there is not enough memory (3).
        """
        from covis.engines.tensorrt.stage_memory import largest_views
        from covis.runtime import flow

        self.process.check()
        # All engines are loaded first, so that their weights count as memory in use.
        loaded = {s.stage.name: self._loaded(s.stage, views, chunk) for s in run}

        def scratch(stage: Stage, sizes: dict[str, int]) -> int:
            session = loaded[stage.name]
            symbol = "N" if stage.scope == "frames" else "M"
            fitted = session.record.views.clamp(sizes[symbol])
            return session.scratch_bytes({**sizes, symbol: fitted})

        def needs(count: int) -> int:
            peak = flow.peak_bytes(run, count, chunk, lengths, scratch)
            return peak + peak // 50 + _CONTEXTS  # 2 % for the rounding of allocations

        # Memory that an earlier run left in the pool is reused.
        free = self.memory.free() + self.memory.used()[0]
        if needs(views) > free:
            fits = largest_views(needs, free, views - 1)
            cure = f"use at most {fits} views" if fits else "use a smaller --chunk"
            raise GpuOutOfMemoryError(f"{views} views", free=free, hint=cure, views=fits or None)

    def release(self) -> None:
        """Free contexts, buffers and scratch memory; the engines stay loaded."""
        from covis.runtime.backends.trt_session import Session

        for session in self.sessions.values():
            if isinstance(session, Session):
                session.release()
        self.memory.release()

    def about(self) -> dict[str, str]:
        """Return the backend, the GPU, and the versions of TensorRT and the driver."""
        from covis.engines.tensorrt.module import import_tensorrt

        return {
            "backend": "tensorrt",
            "device": "cuda",
            "tensorrt": str(import_tensorrt().__version__),
            "gpu": self.gpu.name,
            "driver": self.gpu.driver,
        }

    def _loaded(self, stage: Stage, views: int, chunk: int) -> Session:
        from covis.runtime.backends.trt_session import Session

        size = self.chunk(stage, min(chunk, views))[0] if stage.scope == "frames" else views
        session = self.session(stage, size)
        assert isinstance(session, Session)
        return session

    @property
    def _folder(self) -> Path:
        return self.options.plans or self.bundle.path / PLANS

    def _plan(self, stage: Stage, size: int) -> PlanRecord:
        from covis.engines.tensorrt.module import import_tensorrt
        from covis.engines.tensorrt.plans.choose import find_plan

        if (stage.name, size) not in self.plans:
            self.plans[stage.name, size] = find_plan(
                self.bundle,
                stage,
                size,
                self.gpu,
                tensorrt=str(import_tensorrt().__version__),
                plugin=self.plugin_digest,
                folder=self._folder,
                trusted=self.options.trust_plan,
            )
        return self.plans[stage.name, size]


def open_backend(
    bundle: Bundle, options: BackendOptions, threads: int = 0, kernel: bool = True
) -> Backend:
    """Open the backend of these options; stages are loaded when first needed.

    Args:
        bundle: Opened and checked bundle.
        options: Choice of the backend and its options.
        threads: Number of threads of ONNX Runtime; 0 takes every core.
        kernel: Use the CPU kernel of the sparse ops where it was built.

    Raises:
        CovisError: The machine lacks the GPU, the driver or a library (exit code 3).
    """
    if not options.on_gpu:
        return OnnxRuntimeBackend(bundle, options, threads, kernel)
    if options.backend == "tensorrt":
        from covis.engines.system.gpu import find_gpu
        from covis.engines.system.native import PLUGIN_LIBRARY, find_library
        from covis.engines.tensorrt.module import import_tensorrt, plugin_digest

        import_tensorrt()
        gpu = find_gpu(options.device)
        library = find_library(PLUGIN_LIBRARY, options.plugin)
        digest = plugin_digest(library) if library is not None else None
        return TensorRtBackend(bundle, options, CudaMemory(options.device), gpu, digest)
    from covis.runtime.backends.ort_session import check_provider

    check_provider("tensorrt" if options.backend == "ort-tensorrt" else "cuda")
    return OnnxRuntimeBackend(bundle, options, threads, kernel, CudaMemory(options.device))
