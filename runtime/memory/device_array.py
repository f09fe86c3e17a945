"""GPU arrays that can be exchanged through DLPack and the CUDA Array Interface.

Built on `cuda.core`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import environment_error, first_line, printable, user_error

ALIGNMENT = 256
"""Alignment in bytes that TensorRT requires of every tensor's address."""


class DeviceArray:
    """C-contiguous array in GPU memory, valid in the order of the stream that fills it.

    Attributes:
        owner: Object that keeps the memory alive.
        ptr: Address on the device.
        shape: Shape of the array.
        dtype: NumPy's dtype, or ml_dtypes' bfloat16.
        stream: The `cuda.core.Stream` whose work fills and frees the array.
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
        """Return a view of adjoining entries of the leading dimension; the step must be 1."""
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
        """Size of the elements in bytes."""
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
        """Return a DLPack capsule; the consumer's stream waits until the array is filled."""
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
"""Array in the memory of a backend."""


def adopt(value: Any, stream: Any, device: int) -> Value:
    """Wrap a foreign array as a `DeviceArray`, or as NumPy's where it is on the host.

    Raises:
        CovisError: The array supports neither protocol, is not C-contiguous or is on another GPU.
    """
    name = type(value).__name__
    try:
        if on_host(value):  # producers on the host reject a consumer's stream
            return contiguous(np.from_dlpack(value))
        view_of = importlib.import_module("cuda.core.utils").StridedMemoryView
        view = view_of.from_any_interface(value, int(stream.handle))
    except Exception as error:  # BufferError, and any error of the producer
        raise user_error(
            f"cannot be taken in ({first_line(error)})",
            where=name,
            hint="give an array that speaks DLPack or the CUDA Array Interface",
        ) from error
    if view.dtype is None or not is_contiguous(view.shape, view.strides):
        raise user_error("is not C-contiguous", where=name, hint="call its .contiguous()")
    if not view.is_device_accessible:
        return np.from_dlpack(value)
    if view.device_id != device:
        raise user_error(
            f"lies on GPU {view.device_id}, not {device}", where=name, hint="move it there"
        )
    return DeviceArray(view, int(view.ptr), view.shape, np.dtype(view.dtype), stream)


def on_host(value: Any) -> bool:
    """Return whether an array reports through DLPack that it is in the host's memory."""
    place = getattr(value, "__dlpack_device__", None)
    return place is not None and int(place()[0]) == 1  # kDLCPU


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in C order, without a copy where possible; scalars stay scalars."""
    return np.asarray(array, order="C")


def is_contiguous(shape: Sequence[int], strides: Sequence[int] | None) -> bool:
    """Return whether strides, in elements, are those of C order, where the size is not 1."""
    if strides is None or 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def import_cuda_core() -> ModuleType:
    """Import the `cuda.core` module of cuda-python.

    Raises:
        CovisError: It is not installed (exit code 3).
    """
    try:
        return importlib.import_module("cuda.core")
    except ImportError as error:
        raise environment_error(
            f"cuda-python is missing ({printable(str(error))})",
            hint="pip install 'covis[trt]' or 'covis[gpu]'",
        ) from None
