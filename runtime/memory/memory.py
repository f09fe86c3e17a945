"""Memory of the stages: the host's, or a GPU's with one stream per thread.

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
    """Host memory, the counterpart of `CudaMemory` for the CPU; nothing is ever copied."""

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Value:
        """Allocate an array of undefined content."""
        return np.empty(tuple(shape), dtype)

    def put(self, array: NDArray[Any]) -> Value:
        """Return the array itself."""
        return array

    def get(self, value: Value) -> NDArray[Any]:
        """Return the array itself."""
        assert isinstance(value, np.ndarray)
        return value

    def wait(self) -> None:
        """Return at once, because a stage on the CPU is complete when it returns."""

    def free(self) -> int | None:
        """Return None: the free memory of a host is not known."""
        return None


class CudaMemory:
    """Memory of one GPU.

    Each thread has a stream of its own, and its arrays are allocated and freed in that stream's
    order.

    Attributes:
        device: Index of the GPU, as CUDA counts them.
    """

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
            # A separate pool returns freed memory to the system when the GPU is idle, so that
            # other processes, or torch in this one, can use it.
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
        """Stream of this thread."""
        if not hasattr(self._local, "stream"):
            self._local.stream = self.set_current().create_stream()
        return self._local.stream

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> DeviceArray:
        """Allocate an array of undefined content.

        Raises:
            CovisError: GpuOutOfMemoryError where memory is short (exit code 3).
        """
        size = math.prod(shape) * dtype.itemsize
        try:
            buffer = self._pool.allocate(max(size, 1), stream=self.stream)
        except Exception as error:
            raise self.failure(error, f"{size:,} bytes") from error
        return DeviceArray(buffer, int(buffer.handle), shape, dtype, self.stream)

    def put(self, array: NDArray[Any]) -> DeviceArray:
        """Copy a host array to the device."""
        value = self.empty(array.shape, array.dtype)
        self.copy(value, array)
        return value

    def get(self, value: Value) -> NDArray[Any]:
        """Copy an array to the host and wait for the copy; a host array is returned itself."""
        if isinstance(value, np.ndarray):
            return value
        array = np.empty(value.shape, value.dtype)
        self.copy(array, value)
        self.stream.sync()
        return array

    def copy(self, target: Value, source: Value) -> None:
        """Copy between arrays of the same size, device or host, in stream order.

        Host arrays must be C-contiguous. Host memory is read before this returns; a host array is
        completely written only after `wait`.
        """
        if target.nbytes != source.nbytes:
            raise ValueError(f"{source.nbytes} bytes do not fit into {target.nbytes}")
        if target.nbytes:
            self._buffer(target).copy_from(self._buffer(source), stream=self.stream)

    def adopt(self, value: Any) -> Value:
        """Wrap an array without a copy, through NumPy, DLPack or the CUDA Array Interface.

        This thread's stream waits for the work that fills a foreign array. The result keeps that
        array alive.

        Raises:
            CovisError: The array supports neither protocol, is not C-contiguous, or is on another
                GPU (exit code 2).
        """
        if isinstance(value, DeviceArray):
            if value.stream is not self.stream:
                self.stream.wait(value.stream)
            return value
        if isinstance(value, np.ndarray):
            return contiguous(value)
        return adopt(value, self.stream, self.device)

    def scratch(self, size: int) -> DeviceArray:
        """Return at least `size` bytes that all work of this thread shares, one after the other."""
        present: DeviceArray | None = getattr(self._local, "scratch", None)
        if present is None or present.nbytes < size:
            self._local.scratch = None  # freed first, because both together may not fit
            present = None
            self._local.scratch = self.empty((size,), np.dtype(np.uint8))
        scratch: DeviceArray = self._local.scratch
        return scratch

    def release(self) -> None:
        """Wait for this thread's stream, and free its scratch memory."""
        self.wait()
        self._local.scratch = None
        self.stream.sync()  # only now does the pool return free memory to the system

    def wait(self) -> None:
        """Wait until this thread's stream is idle."""
        self.stream.sync()
        self._pending().clear()

    def keep(self, *objects: Any) -> None:
        """Keep objects alive until the work submitted to this thread's stream is done."""
        pending = self._pending()
        while pending and pending[0][0].is_done:
            pending.popleft()
        pending.append((self.stream.record(), objects))

    def free(self) -> int:
        """Return the bytes that can be allocated: free on the GPU, and unused in the pool."""
        driver = importlib.import_module("cuda.bindings.driver")
        self.set_current()
        status, free, _ = driver.cuMemGetInfo()
        if int(status) != 0:
            raise environment_error(f"the driver does not say how much memory is free ({status})")
        pool = self._pool.attributes
        return int(free) + int(pool.reserved_mem_current) - int(pool.used_mem_current)

    def used(self) -> tuple[int, int]:
        """Return the bytes of this pool in use, and their peak since `reset_high`."""
        pool = self._pool.attributes
        return int(pool.used_mem_current), int(pool.used_mem_high)

    def reset_high(self) -> None:
        """Reset the peak of `used` through the driver, because `cuda.core` has no call for it."""
        driver = importlib.import_module("cuda.bindings.driver")
        high = driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_HIGH
        (status,) = driver.cuMemPoolSetAttribute(self._pool.handle, high, driver.cuuint64_t(0))
        if int(status) != 0:
            raise environment_error(f"the driver does not reset its account of memory ({status})")

    def failure(self, error: Exception, what: str) -> CovisError:
        """Convert an error of `cuda.core` into one line."""
        # `cuda.core` raises one class for every driver error; the name in its text is the code.
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
