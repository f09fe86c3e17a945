"""Arrays with one entry for each view in `.npy` files, which are memory-mapped for reading.

A collection's images and depth do not fit into memory. The files are written by ordinary calls, not
through the mapping: a full disk is then an error of the call, where a mapping would end the process
with a signal.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from covis.engines.errors import environment_error

_FORMAT: Any = np.lib.format  # older NumPy does not say the types of its functions


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write the header of a `.npy` file, after which the elements follow in C order."""
    header = {"descr": _FORMAT.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    _FORMAT.write_array_header_1_0(file, header)


class ViewFile:
    """A `.npy` file under construction, whose entries are written in any order; the rest is 0.

    Args:
        file: Empty file, open for writing; leaving the block closes it.
        shape: (M, ...) shape of the array.
        dtype: Type of its elements.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._file, self._dtype, self._shape = file, np.dtype(dtype), shape[1:]
        write_header(file, shape, self._dtype)
        self._start = file.tell()
        self._step = int(np.prod(self._shape)) * self._dtype.itemsize
        file.truncate(self._start + shape[0] * self._step)

    def __enter__(self) -> ViewFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, view: int, entry: NDArray[Any]) -> None:
        """Write the entry (...) of one view.

        Raises:
            OSError: The disk is full.
        """
        if entry.shape != self._shape:
            raise ValueError(f"an entry of shape {entry.shape} in a file of {self._shape}")
        self._file.seek(self._start + view * self._step)
        self._file.write(np.ascontiguousarray(entry, self._dtype).data)

    def flush(self) -> None:
        """Give the entries so far to the file system, where a mapping finds them."""
        self._file.flush()


def rewritten(like: NDArray[Any], count: int, entry: Callable[[int], NDArray[Any]]) -> NDArray[Any]:
    """Return a new array (count, ...) of the given entries, stored as `like` is.

    Where `like` is memory-mapped, so is the new array: its file, in the same folder, has no name,
    and disappears with the array.

    Args:
        like: (M, ...) array that decides about storage, type and shape of an entry.
        count: Number of entries.
        entry: Function that returns the entry of an index.

    Raises:
        CovisError: The folder of a mapped array cannot be written, or the disk is full.
    """
    shape = (count, *like.shape[1:])
    if not isinstance(like, np.memmap):
        array = np.empty(shape, like.dtype)
        for index in range(count):
            array[index] = entry(index)
        return array
    folder = Path(like.filename).parent if like.filename else Path(tempfile.gettempdir())
    try:
        with (
            tempfile.NamedTemporaryFile(dir=folder, prefix=".covis-", suffix=".npy") as file,
            ViewFile(file, shape, like.dtype) as written,
        ):
            for index in range(count):
                written.put(index, entry(index))
                release(like)
            written.flush()
            mapped: NDArray[Any] = np.load(file.name, mmap_mode="r+", allow_pickle=False)
            return mapped
    except OSError as error:
        raise environment_error(
            f"a copy of the scene's arrays cannot be written ({error.strerror or error})",
            where=folder,
            hint="check free space and rights",
        ) from error


def release(*arrays: NDArray[Any] | None) -> None:
    """Give the memory of pages back that were read from mapped arrays; others stay as they are.

    The system does so by itself, but only when memory is scarce: until then the pages count as
    memory of this process. What was written to a mapping is not lost.
    """
    for array in arrays:
        pages: Any = array.base if isinstance(array, np.memmap) and array.mode != "c" else None
        if isinstance(pages, mmap.mmap) and hasattr(pages, "madvise"):
            pages.madvise(mmap.MADV_DONTNEED)
