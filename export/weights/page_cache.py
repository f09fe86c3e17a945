"""Giving memory-mapped weights back to the page cache."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

_MADV_DONTNEED = 4


def release_pages(tensors: Iterable[Tensor]) -> None:
    """Drop the resident pages of tensors mapped from a file; touched again, they return.

    Reading 5 GB of weights once, to check or to run them, otherwise keeps 5 GB resident. Tensors
    that are not such mappings are left alone, as is everything where /proc is not to be had.
    """
    mapped = _file_mappings()
    if not mapped:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    for tensor in tensors:
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if any(start <= first and last <= stop for start, stop in mapped):
            # The pages at both ends may hold a neighbour's bytes too; they come back unharmed.
            start, stop = first // page * page, -(-last // page) * page
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED)


def _file_mappings() -> list[tuple[int, int]]:
    """Address ranges of mapped safetensors files."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    found = [line.split()[0].split("-") for line in lines if ".safetensors" in line]
    return [(int(first, 16), int(last, 16)) for first, last in found]
