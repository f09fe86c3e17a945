"""Where a bundle's stages run: the choice of a backend, and what the pipeline asks of each."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from covis.engines.bundle.bundle import PLANS, Bundle
from covis.engines.bundle.manifest import Stage
from covis.engines.errors import GpuOutOfMemoryError
from covis.engines.options import BackendOptions
from covis.runtime.memory.memory import CudaMemory, HostMemory

if TYPE_CHECKING:
    from covis.engines.system.gpu import Gpu
    from covis.engines.tensorrt.plans.record import PlanRecord
    from covis.runtime.backends.trt_session import Session
    from covis.runtime.flow import Step

Memory = HostMemory | CudaMemory
_CONTEXTS = 32 << 20  # bytes that execution contexts take for themselves, and 2 % for rounding


class StageSession(Protocol):
    """A loaded stage, in any backend."""

    stage: Stage

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Read `inputs`, write into `outputs`."""


class Backend(Protocol):
    """What the pipeline asks of a backend."""

    @property
    def memory(self) -> Memory:
        """Where values are kept between stages."""

    def session(self, stage: Stage, size: int) -> StageSession:
        """The stage, loaded: for `size` views, or frames of a chunk."""

    def chunk(self, stage: Stage, frames: int) -> tuple[int, int]:
        """(frames at once, fewest frames) of a stage that runs in chunks of `frames` at most."""

    def check(self, run: tuple[Step, ...], views: int, chunk: int, probes: int) -> None:
        """Refuse a run that does not fit into memory, before it begins."""

    def release(self) -> None:
        """Give back what a failed run has left, so that a smaller one can follow."""

    def about(self) -> dict[str, str]:
        """Versions for the provenance of a scene."""


@dataclass
class OnnxRuntimeBackend:
    """ONNX Runtime, on the CPU or, with host copies only at both ends, on a GPU."""

    bundle: Bundle
    options: BackendOptions
    threads: int = 0
    kernel: bool = True
    memory: Memory = field(default_factory=HostMemory)
    sessions: dict[str, StageSession] = field(default_factory=dict)

    def session(self, stage: Stage, size: int) -> StageSession:
        """The stage, loaded; one session serves every size."""
        from covis.runtime.backends.ort_session import Session, SessionOptions

        if stage.name not in self.sessions:
            on_gpu = isinstance(self.memory, CudaMemory)
            wanted = "tensorrt" if self.options.backend == "ort-tensorrt" else "cuda"
            options = SessionOptions(
                threads=self.threads,
                kernel=self.kernel,
                provider=wanted if on_gpu else "cpu",  # type: ignore[arg-type]
                device=self.options.device,
                plugin=self.options.plugin,
                cache=self.bundle.digest()[:32],
            )
            self.sessions[stage.name] = Session(
                self.bundle.graph(stage), stage, options, self.memory
            )
        return self.sessions[stage.name]

    def chunk(self, stage: Stage, frames: int) -> tuple[int, int]:
        """Any number of frames will do."""
        return frames, 1

    def check(self, run: tuple[Step, ...], views: int, chunk: int, probes: int) -> None:
        """ONNX Runtime does not say beforehand what it needs."""

    def release(self) -> None:
        """Sessions give their memory back after each run."""
        if isinstance(self.memory, CudaMemory):
            self.memory.release()

    def about(self) -> dict[str, str]:
        """Version and provider."""
        from covis.engines.system.ort_settings import import_onnxruntime

        return {
            "backend": self.options.library,
            "device": "cuda" if self.options.on_gpu else "cpu",
            "onnxruntime": str(import_onnxruntime().__version__),
        }


@dataclass
class TensorRtBackend:
    """TensorRT, from the plans of `covis build`; all values stay on the GPU between stages."""

    bundle: Bundle
    options: BackendOptions
    memory: CudaMemory
    gpu: Gpu
    plugin_digest: str | None  # sha256 of the plugin library and its kernels
    sessions: dict[str, StageSession] = field(default_factory=dict)
    plans: dict[tuple[str, int], PlanRecord] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def session(self, stage: Stage, size: int) -> StageSession:
        """The plan whose profile is nearest to `size`, loaded."""
        from covis.runtime.backends.trt_session import Session, SessionOptions

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
        """The nearest size that a plan of this stage takes, and the fewest frames it takes."""
        span = self._plan(stage, frames).views
        return span.clamp(frames), span.min

    def check(self, run: tuple[Step, ...], views: int, chunk: int, probes: int) -> None:
        """Refuse what does not fit, naming the largest number of views that does.

        Raises:
            CovisError: a plan is missing (exit code 2), or memory is (3).
        """
        from covis.engines.tensorrt.stage_memory import largest_views
        from covis.runtime import flow

        # All engines are loaded first: then their weights are counted in what is taken.
        loaded = {s.stage.name: self._loaded(s.stage, views, chunk) for s in run}

        def scratch(stage: Stage, sizes: dict[str, int]) -> int:
            session = loaded[stage.name]
            symbol = "N" if stage.scope == "frames" else "M"
            fitted = session.record.views.clamp(sizes[symbol])
            return session.scratch_bytes({**sizes, symbol: fitted})

        def needs(count: int) -> int:
            peak = flow.peak_bytes(run, count, chunk, probes, scratch)
            return peak + peak // 50 + _CONTEXTS

        # What an earlier run has left in the pool is used again.
        free = self.memory.free() + self.memory.used()[0]
        if needs(views) > free:
            fits = largest_views(needs, free, views - 1)
            cure = f"use at most {fits} views" if fits else "use a smaller --chunk"
            raise GpuOutOfMemoryError(f"{views} views", free=free, hint=cure, views=fits or None)

    def release(self) -> None:
        """Drop contexts, buffers and scratch memory; the engines stay."""
        from covis.runtime.backends.trt_session import Session

        for session in self.sessions.values():
            if isinstance(session, Session):
                session.release()
        self.memory.release()

    def about(self) -> dict[str, str]:
        """Versions of TensorRT and the driver, and the GPU."""
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
    """The backend of these options; sessions are loaded later, when first needed.

    Raises:
        CovisError: the machine lacks the GPU, the driver or a library for it (exit code 3).
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
