"""Memory that stages work in: the host's, or a GPU's, in the order of one stream a thread.

Built on `cuda.core`.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, GpuOutOfMemoryError, environment_error, first_line
from covis.runtime.memory.device_array import (
    DeviceArray,
    Value,
    adopt,
    contiguous,
    import_cuda_core,
)


class HostMemory:
    """The counterpart of `CudaMemory` for stages that run on the CPU: nothing is ever copied."""

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Value:
        """An array of undefined content."""
        return np.empty(tuple(shape), dtype)

    def put(self, array: NDArray[Any]) -> Value:
        """The array, where the stages run."""
        return array

    def get(self, value: Value) -> NDArray[Any]:
        """The array on the host."""
        assert isinstance(value, np.ndarray)
        return value

    def wait(self) -> None:
        """Nothing is under way once a stage has returned."""

    def free(self) -> int | None:
        """Bytes that can still be taken; None where nobody can say."""
        return None


class CudaMemory:
    """Memory of one GPU. Each thread has its own stream; its arrays live in that stream's order."""

    def __init__(self, device: int = 0) -> None:
        """Open a GPU.

        Args:
            device: Index of the GPU, as CUDA counts them.

        Raises:
            CovisError: There is no cuda-python, no driver or no such GPU (exit code 3).
        """
        core = import_cuda_core()
        self.device = device
        try:
            current = core.Device(device)
            current.set_current()
            # A pool of our own: what is freed goes back to the system when the GPU is idle, so
            # another process, or torch in this one, is not left without.
            self._pool = core.DeviceMemoryResource(current, core.DeviceMemoryResourceOptions())
        except Exception as error:
            raise environment_error(
                f"GPU {device} cannot be used ({first_line(error)})", hint="see `covis doctor`"
            ) from error
        self._core = core
        self._local = threading.local()

    def set_current(self) -> Any:
        """Make the GPU current in this thread and return its `cuda.core.Device`."""
        device = self._core.Device(self.device)
        device.set_current()
        return device

    @property
    def stream(self) -> Any:
        """This thread's stream."""
        if not hasattr(self._local, "stream"):
            self._local.stream = self.set_current().create_stream()
        return self._local.stream

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> DeviceArray:
        """An array of undefined content.

        Raises:
            CovisError: GpuOutOfMemoryError where there is no room (exit code 3).
        """
        size = math.prod(shape) * dtype.itemsize
        try:
            buffer = self._pool.allocate(max(size, 1), stream=self.stream)
        except Exception as error:
            raise self.failure(error, f"{size:,} bytes") from error
        return DeviceArray(buffer, int(buffer.handle), shape, dtype, self.stream)

    def put(self, array: NDArray[Any]) -> DeviceArray:
        """A copy of a host array on the device."""
        value = self.empty(array.shape, array.dtype)
        self.copy(value, array)
        return value

    def get(self, value: Value) -> NDArray[Any]:
        """A copy on the host, complete when this returns; host arrays come back as they are."""
        if isinstance(value, np.ndarray):
            return value
        array = np.empty(value.shape, value.dtype)
        self.copy(array, value)
        self.stream.sync()
        return array

    def copy(self, target: Value, source: Value) -> None:
        """Copy between arrays of the same size, device or host, in stream order.

        Host arrays must be C-contiguous. Host memory is read before this returns; what is written
        to the host is complete after `wait`.
        """
        if target.nbytes != source.nbytes:
            raise ValueError(f"{source.nbytes} bytes do not fit into {target.nbytes}")
        if target.nbytes:
            self._buffer(target).copy_from(self._buffer(source), stream=self.stream)

    def adopt(self, value: Any) -> Value:
        """Any array as this module's own, without a copy: NumPy, DLPack, CUDA Array Interface.

        This thread's stream waits for the work that fills a foreign array; the result keeps the
        array alive. What is not C-contiguous or lies on another GPU is refused.

        Raises:
            CovisError: neither protocol is spoken, or the array is unfit (exit code 2).
        """
        if isinstance(value, DeviceArray):
            if value.stream is not self.stream:
                self.stream.wait(value.stream)
            return value
        if isinstance(value, np.ndarray):
            return contiguous(value)
        return adopt(value, self.stream, self.device)

    def scratch(self, size: int) -> DeviceArray:
        """At least `size` bytes that everything run by this thread shares, one after the other."""
        held: DeviceArray | None = getattr(self._local, "scratch", None)
        if held is None or held.nbytes < size:
            self._local.scratch = None  # given back first: the two together may not fit
            held = None
            self._local.scratch = self.empty((size,), np.dtype(np.uint8))
        scratch: DeviceArray = self._local.scratch
        return scratch

    def release(self) -> None:
        """Wait, and give this thread's scratch memory back."""
        self.wait()
        self._local.scratch = None
        self.stream.sync()  # the pool returns what is free to the system

    def wait(self) -> None:
        """Until this thread's stream is idle."""
        self.stream.sync()
        self._pending().clear()

    def keep(self, *objects: Any) -> None:
        """Hold objects alive until the work that this thread's stream has now is done."""
        pending = self._pending()
        while pending and pending[0][0].is_done:
            pending.popleft()
        pending.append((self.stream.record(), objects))

    def free(self) -> int:
        """Bytes that can still be taken: free on the GPU, and unused in the pool."""
        driver = importlib.import_module("cuda.bindings.driver")
        self.set_current()
        status, free, _ = driver.cuMemGetInfo()
        if int(status) != 0:
            raise environment_error(f"the driver does not say how much memory is free ({status})")
        pool = self._pool.attributes
        return int(free) + int(pool.reserved_mem_current) - int(pool.used_mem_current)

    def used(self) -> tuple[int, int]:
        """Bytes of this pool in use now, and at the highest so far."""
        pool = self._pool.attributes
        return int(pool.used_mem_current), int(pool.used_mem_high)

    def reset_high(self) -> None:
        """Let the highest use so far begin anew; `cuda.core` has no call for it."""
        driver = importlib.import_module("cuda.bindings.driver")
        high = driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_HIGH
        (status,) = driver.cuMemPoolSetAttribute(self._pool.handle, high, driver.cuuint64_t(0))
        if int(status) != 0:
            raise environment_error(f"the driver does not reset its account of memory ({status})")

    def failure(self, error: Exception, what: str) -> CovisError:
        """An error of `cuda.core`, in one line."""
        # `cuda.core` raises one class for every driver error: the name in its text is the code.
        if "OUT_OF_MEMORY" in str(error):
            return GpuOutOfMemoryError(what, free=self.free())
        return environment_error(f"CUDA failed ({first_line(error)})", hint="see `covis doctor`")

    def _pending(self) -> deque[tuple[Any, tuple[Any, ...]]]:
        if not hasattr(self._local, "pending"):
            self._local.pending = deque()
        pending: deque[tuple[Any, tuple[Any, ...]]] = self._local.pending
        return pending

    def _buffer(self, value: Value) -> Any:
        if isinstance(value, DeviceArray):
            return self._core.Buffer.from_handle(value.ptr, value.nbytes, owner=value)
        if not value.flags.c_contiguous:
            raise ValueError("a host array must be C-contiguous to be copied")
        return self._core.Buffer.from_handle(value.ctypes.data, value.nbytes, owner=value)
