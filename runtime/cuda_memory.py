"""Arrays in GPU memory, and what copies them: in the order of one stream a thread.

Built on `cuda.core`; arrays come in and go out through DLPack and the CUDA Array Interface.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, environment_error, printable

ALIGNMENT = 256
"""Bytes that TensorRT wants every tensor's address to be a multiple of."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of a manifest's tensor; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        wide: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return wide
    return np.dtype(name)


class DeviceArray:
    """A C-contiguous array in GPU memory, valid in the order of the stream it was made on.

    Attributes:
        owner: keeps the memory alive.
        ptr: address on the device.
        shape: of the array.
        dtype: NumPy's, or ml_dtypes' bfloat16.
        stream: the `cuda.core.Stream` whose work fills and frees it.
    """

    __slots__ = ("dtype", "owner", "ptr", "shape", "stream")

    def __init__(
        self, owner: Any, ptr: int, shape: Sequence[int], dtype: np.dtype[Any], stream: Any
    ) -> None:
        self.owner = owner
        self.ptr = ptr
        self.shape = tuple(shape)
        self.dtype = dtype
        self.stream = stream

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice) -> DeviceArray:
        """A view of whole entries of the leading dimension; steps other than 1 are not possible."""
        first, last, step = frames.indices(self.shape[0])
        if step != 1:
            raise IndexError("a device array is cut by whole, adjoining entries only")
        count = max(last - first, 0)
        offset = first * math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(
            self.owner, self.ptr + offset, (count, *self.shape[1:]), self.dtype, self.stream
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.kind not in "biuf":
            raise AttributeError("the CUDA Array Interface has no bfloat16; use DLPack")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.ptr, False),
            "strides": None,
            "version": 3,
            "stream": int(self.stream.handle),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, int(self.stream.device.device_id)  # kDLCUDA

    def __dlpack__(self, *, stream: int | None = None, **wishes: Any) -> Any:
        """A DLPack capsule; the consumer's stream waits for the work that fills the array."""
        core = import_cuda_core()
        if stream is None or stream == 1:
            core.LEGACY_DEFAULT_STREAM.wait(self.stream)
        elif stream == 2:
            core.PER_THREAD_DEFAULT_STREAM.wait(self.stream)
        elif stream != -1:
            core.Stream.from_handle(stream).wait(self.stream)
        buffer = core.Buffer.from_handle(self.ptr, self.nbytes, owner=self)
        view = importlib.import_module("cuda.core.utils").StridedMemoryView.from_buffer(
            buffer, self.shape, dtype=self.dtype
        )
        return view.__dlpack__(stream=-1, **wishes)


Value = NDArray[Any] | DeviceArray
"""An array where a backend keeps it."""


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

    def __init__(self, index: int = 0) -> None:
        """Take the GPU of that index.

        Raises:
            CovisError: no cuda-python, no driver, or no such GPU (exit code 3).
        """
        core = import_cuda_core()
        self.index = index
        try:
            device = core.Device(index)
            device.set_current()
            # A pool of our own: what is freed goes back to the system when the GPU is idle, so
            # another process, or torch in this one, is not left without.
            self._pool = core.DeviceMemoryResource(device, core.DeviceMemoryResourceOptions())
        except Exception as error:
            raise environment_error(
                f"GPU {index} cannot be used ({first_line(error)})", hint="see `covis doctor`"
            ) from error
        self._core = core
        self._local = threading.local()

    @property
    def device(self) -> Any:
        """The `cuda.core.Device`, current in this thread."""
        device = self._core.Device(self.index)
        device.set_current()
        return device

    @property
    def stream(self) -> Any:
        """This thread's stream."""
        if not hasattr(self._local, "stream"):
            self._local.stream = self.device.create_stream()
        return self._local.stream

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> DeviceArray:
        """An array of undefined content.

        Raises:
            CovisError: out of memory (exit code 3), see `is_out_of_memory`.
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
        return adopt(value, self.stream, self.index)

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
        self.device  # noqa: B018 - makes the context current in this thread
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
        if "OUT_OF_MEMORY" in str(error):
            return out_of_memory(what, self.free())
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


def adopt(value: Any, stream: Any, index: int) -> Value:
    """A foreign array as a `DeviceArray`, or as NumPy's where it lies on the host."""
    from covis.engines.errors import user_error

    name = type(value).__name__
    view_of = importlib.import_module("cuda.core.utils").StridedMemoryView
    try:
        view = view_of.from_any_interface(value, int(stream.handle))
    except Exception as error:  # BufferError, and whatever the producer raises
        raise user_error(
            f"cannot be taken in ({first_line(error)})",
            where=name,
            hint="give an array that speaks DLPack or the CUDA Array Interface",
        ) from error
    if view.dtype is None or not is_contiguous(view.shape, view.strides):
        raise user_error("is not C-contiguous", where=name, hint="call its .contiguous()")
    if not view.is_device_accessible:
        return np.from_dlpack(value)
    if view.device_id != index:
        raise user_error(
            f"lies on GPU {view.device_id}, not {index}", where=name, hint="move it there"
        )
    return DeviceArray(view, int(view.ptr), view.shape, np.dtype(view.dtype), stream)


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array in C order, itself where it is; scalars stay so, unlike in ascontiguousarray."""
    return np.asarray(array, order="C")


def is_contiguous(shape: Sequence[int], strides: Sequence[int] | None) -> bool:
    """Whether strides, in elements, are those of C order; where the size is 1 any will do."""
    if strides is None or 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def import_cuda_core() -> ModuleType:
    """The `cuda.core` module of cuda-python.

    Raises:
        CovisError: it is not installed (exit code 3).
    """
    try:
        return importlib.import_module("cuda.core")
    except ImportError as error:
        raise environment_error(
            f"cuda-python is missing ({printable(str(error))})",
            hint="pip install 'covis[trt]' or 'covis[gpu]'",
        ) from None


def out_of_memory(what: str, free: int | None = None, hint: str = "use fewer views") -> CovisError:
    """The one error for a GPU that is full; `is_out_of_memory` knows it again."""
    left = "" if free is None else f" ({free / 2**30:.1f} GiB are free)"
    return environment_error(f"{_FULL}: {what} do not fit{left}", hint=hint)


_FULL = "the GPU is out of memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the GPU is full."""
    return isinstance(error, CovisError) and _FULL in error.what


def first_line(error: BaseException) -> str:
    """An exception's first line, safe to print, or its type where it says nothing."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:400])
